"""Fine-tuning by hand: batches of each kind of task, their losses, one update.

The tokens 0 to 9 stand for themselves, then come start, delimiter, extract.
"""

import dataclasses
import pathlib

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from gpt1_jax.model import gpt
from gpt1_jax.tasks import batches, features, initialization
from gpt1_jax.train import step as step_lib, task_losses
from tests.support import networks, reference, task_cases, toy_tokenizers
from tests.support.task_cases import D, E, S

ROOT = pathlib.Path(__file__).resolve().parents[1]
EACH = pytest.mark.parametrize(
  'case', task_cases.CASES.values(), ids=task_cases.CASES
)


@EACH
def test_batch_by_hand(case):
  batch, expected = task_cases.built(case), case.batch()
  assert batch.keys() == expected.keys()
  for name, x in expected.items():
    np.testing.assert_array_equal(batch[name], x, err_msg=name)
    assert batch[name].dtype == x.dtype, name


def loss_of(case, config, params, reduction, clf_pdrop=0.0, dropout_key=None):
  """Mean loss and its parts, as fine-tuning computes them."""
  loss_fn = step_lib.finetune_loss(
    gpt.GPT(config), task_cases.head_of(case, clf_pdrop), 0.5, reduction
  )

  @jax.jit
  def mean_loss(params, batch):
    example_ids_B = jnp.arange(3, dtype=jnp.uint32)
    loss, _, sums = loss_fn(
      params, batch, dropout_key, example_ids_B, mean=True
    )
    return loss, sums['task_loss'], sums['lm_loss']

  return [float(x) for x in mean_loss(params, task_cases.built(case))]


@EACH
@pytest.mark.parametrize('reduction', task_losses.LM_REDUCTIONS)
def test_loss_by_hand(case, reduction):
  """Checks a network whose last state is (1, 0, 0, ...) at every position.

  Its logits are the first column of the embedding: a text token costs 4 bits,
  a special one 3, whatever came before.
  """
  params = jax.tree.map(np.zeros_like, networks.gpt_params(task_cases.CONFIG))
  params['h']['ln_2']['bias'][:, 0] = 1
  params['tokens_embed'][:10, 0] = -4 * task_cases.LN2  # 10/16 + 3/8 = 1
  params['tokens_embed'][10:, 0] = -3 * task_cases.LN2
  Y = case.task.num_outputs
  kernel = np.zeros((64, Y), np.float32)
  kernel[0] = 0.5  # both orders of a regression: 0.5 + 0.5 + 1 = 2
  clf = {'kernel': kernel, 'bias': np.array(task_cases.BIAS[Y], np.float32)}
  params = {'gpt': params, 'head': {'clf': clf}}
  loss, task_part, lm_part = loss_of(case, task_cases.CONFIG, params, reduction)
  nats = sum(case.nats) / 2
  lm = task_cases.LN2 * case.bits[task_losses.LM_REDUCTIONS.index(reduction)]
  assert task_part == pytest.approx(nats, rel=1e-6)
  assert lm_part == pytest.approx(lm, rel=1e-6)
  assert loss == pytest.approx(nats + 0.5 * lm, rel=1e-6)


@EACH
@pytest.mark.parametrize('preset', ['paper', 'openai'])
def test_loss_equals_numpy(case, preset):
  """Compares a random network with float64, at every dropout site."""
  dropout_key = networks.DROPOUT_KEY
  config, reduction = task_cases.CONFIG, 'tokens'
  if preset == 'openai':
    reduction = 'sequences'
    config = dataclasses.replace(
      task_cases.CONFIG, embedding_dropout='matrix', softmax_rows='all'
    )
  params = task_cases.random_params(case, config)
  loss, _, _ = loss_of(case, config, params, reduction, 0.1, dropout_key)
  expected = reference.finetune_loss(
    reference.float64(jax.device_get(params)),
    case.batch(),
    case.kind,
    0.5,
    reduction,
    config.embedding_dropout,
    config.softmax_rows,
    networks.masks(config, dropout_key, 0.1),
  )
  assert loss == pytest.approx(expected, rel=1e-6)


def update(case, rows=1, **settings):
  """Loss and gradient of one update by `train_step`, of the case repeated."""
  made = features.build(
    case.task, case.rows * rows, toy_tokenizers.DigitTokenizer(), 16
  )
  batch = batches.Batches(
    made, batches.BatchSettings(2 * rows, lengths=(8,))
  ).batch(0)
  params = task_cases.random_params(case, task_cases.CONFIG)
  step, state = task_cases.sgd_step(case, task_cases.CONFIG, params, **settings)
  after, metrics = step(state, jax.tree.map(jnp.asarray, batch))
  grads = jax.tree.map(lambda p, q: p - q, params, after.params)
  return float(metrics['loss']), reference.flat(jax.device_get(grads))


@pytest.mark.parametrize('reduction', task_losses.LM_REDUCTIONS)
def test_microbatches_equal_the_whole_batch(reduction):
  """The lengths are unequal, so a mean of the parts' means would differ.

  The parts are strided: one has the long sequences, one the short.
  """
  case = task_cases.CASES['classification']
  whole, grads = update(case, rows=2, reduction=reduction)
  parts, others = update(case, rows=2, reduction=reduction, microbatches=2)
  assert parts == pytest.approx(whole, rel=1e-6)
  for name, x in grads.items():
    error = np.linalg.norm(others[name] - x)
    assert error < 2e-6 * np.linalg.norm(x), name


@EACH
def test_the_special_embeddings_are_trained(case):
  """The task loss alone trains each special embedding that is looked up."""
  _, grads = update(case, lm_coef=0.0)
  reached = np.abs(grads['gpt/tokens_embed']).max(axis=1) > 1e-6
  used = {token for row in case.tokens for seq in row for token in seq}
  assert set(np.flatnonzero(reached)) == used
  assert used & {S, D, E} == (
    {S, E} if case.kind == 'classification' else {S, D, E}
  )


def test_the_lm_loss_trains_every_row():
  _, grads = update(task_cases.CASES['classification'])
  assert (np.abs(grads['gpt/tokens_embed']).max(axis=1) > 1e-6).all()


def test_specials_and_head_start_fresh():
  """N(0, 0.02) from the run's seed; the rest is the pretrained run's."""
  config = dataclasses.replace(task_cases.CONFIG, n_embd=512)
  pretrained = jax.device_get(
    networks.gpt_params(dataclasses.replace(config, n_special=0))
  )

  def start(seed):
    params = task_cases.fresh(config, seed)
    return jax.device_get(
      initialization.transfer({'gpt': pretrained}, params, 2)
    )

  params, other = start(0), start(1)
  table = params['gpt']['tokens_embed']
  np.testing.assert_array_equal(table[:10], pretrained['tokens_embed'])
  np.testing.assert_array_equal(
    params['gpt']['h']['mlp']['c_fc']['kernel'],
    pretrained['h']['mlp']['c_fc']['kernel'],
  )
  for fresh in (table[10:], params['head']['clf']['kernel']):
    n = fresh.size
    assert abs(fresh.mean()) < 4.5 * 0.02 / n**0.5
    assert abs(fresh.std() - 0.02) < 4.5 * 0.02 / (2 * n) ** 0.5
  assert not params['head']['clf']['bias'].any()
  assert (table[10:] != other['gpt']['tokens_embed'][10:]).all()
