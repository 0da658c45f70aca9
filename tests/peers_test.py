"""The same numbers as `transformers`' OpenAIGPT classes, forward and backward.

Goldens (a small model, made by tests/goldens/make.py) hold in every run of the
suite; with the `peers` extra the same is computed anew at the full shape.
Bounds, in float32: logits to 2e-5 absolute; each gradient to 1e-5 relative,
||ours - theirs|| / ||theirs|| of each tensor of the released layout (blocks
apart, queries, keys and values of a block together: the gradient of a key's
bias is zero but for rounding).
"""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from gpt1_jax.model import gpt, heads
from gpt1_jax.settings import GPTConfig
from gpt1_jax.train import step as step_lib
from tests.goldens import make
from tests.support import networks, peers

NEEDED = "needs the peers extra: pip install -e '.[test,peers]'"
FULL = {'n_layer': 12, 'n_head': 12, 'n_embd': 768, 'n_positions': 512}


@functools.cache
def goldens():
  with np.load(make.OUTPUT) as file:
    return make.SHAPE, dict(file)


@functools.cache
def full():
  for name in ('torch', 'transformers'):
    pytest.importorskip(name, reason=NEEDED)
  return FULL, make.make(
    FULL, rows=40_478, batch=1, choices=2, length=128, std=0.02
  )


BOTH = pytest.mark.parametrize(
  'run',
  [goldens, pytest.param(full, marks=[pytest.mark.peers, pytest.mark.slow])],
)


def ours(run):
  """The model of the run's shape, its weights, and what the peer computed."""
  shape, arrays = run()
  config = GPTConfig(
    **{
      **vars(networks.GPT_CONFIG),
      'n_layer': shape['n_layer'],
      'n_head': shape['n_head'],
      'n_embd': shape['n_embd'],
      'n_ctx': shape['n_positions'],
      'vocab_size': len(arrays['weights/transformer.tokens_embed.weight']),
    }
  )
  params = peers.to_params(part(arrays, 'weights/'), config.n_head)
  return gpt.GPT(config), jax.tree.map(jnp.asarray, params), arrays


def part(arrays, prefix):
  return {
    name.removeprefix(prefix): x
    for name, x in arrays.items()
    if name.startswith(prefix)
  }


def assert_gradients(grads, arrays, prefix, n_head):
  expected = peers.to_named(peers.to_params(part(arrays, prefix), n_head))
  got = peers.to_named(jax.device_get(grads))
  assert got.keys() == expected.keys()
  for tree in (got, expected):  # the softmax over choices takes no bias
    bias = tree.pop('head/clf/bias', 0.0)
    assert np.abs(bias).max() < 1e-6
  for name, x in expected.items():
    error = np.linalg.norm(got[name] - x) / np.linalg.norm(x)
    assert error < 1e-5, (name, error)


@pytest.mark.peers
def test_the_goldens_are_what_their_script_makes():
  for name in ('torch', 'transformers'):
    pytest.importorskip(name, reason=NEEDED)
  _, arrays = goldens()
  made = make.make(make.SHAPE, **make.SIZES)
  assert made.keys() == arrays.keys()
  for name, x in made.items():
    np.testing.assert_allclose(arrays[name], x, rtol=0, atol=2e-6, err_msg=name)


@BOTH
def test_lm_head_model(run):
  model, params, arrays = ours(run)
  params = {'gpt': params['gpt']}
  batch = {'tokens': jnp.asarray(arrays['lm/tokens'])}
  batch['lm_weights'] = jnp.ones(batch['tokens'].shape)

  @jax.jit
  def logits(params):
    return gpt.logits(
      *model.apply({'params': params['gpt']}, batch['tokens'], dropout_key=None)
    )

  @jax.jit
  @jax.value_and_grad
  def mean_loss(params):
    loss, weight, _ = step_lib.pretrain_loss(model)(params, batch, None, None)
    return loss / weight

  np.testing.assert_allclose(
    logits(params), arrays['lm/logits'], rtol=0, atol=2e-5
  )
  loss, grads = mean_loss(params)
  assert float(loss) == pytest.approx(float(arrays['lm/loss']), rel=1e-6)
  assert_gradients(grads, arrays, 'lm/grad/', model.config.n_head)


@BOTH
def test_double_heads_model(run):
  """Task and LM loss together: the LM's is a mean over tokens there, too."""
  model, params, arrays = ours(run)
  head = heads.Head('choice', 1, 0.0)
  batch = {
    name: jnp.asarray(arrays[f'choice/{name}'])
    for name in ('tokens', 'lm_weights', 'extract', 'label')
  }
  B = len(batch['label'])
  targets = batch['lm_weights'][..., 1:].sum() / B
  batch = {
    **batch,
    'example_weight': jnp.ones(B),
    'mean_targets': jnp.full(B, targets),
  }
  loss_fn = step_lib.finetune_loss(model, head, 0.5, 'tokens')

  @jax.jit
  @functools.partial(jax.value_and_grad, has_aux=True)
  def mean_loss(params):
    example_ids_B = jnp.arange(B, dtype=jnp.uint32)
    loss, weight, sums = loss_fn(params, batch, None, example_ids_B)
    return loss / weight, sums

  (loss, sums), grads = mean_loss(params)
  np.testing.assert_allclose(
    sums['outputs'], arrays['choice/outputs'], rtol=0, atol=2e-5
  )
  for name, got in (
    ('loss', loss),
    ('task_loss', sums['task_loss'] / B),
    ('lm_loss', sums['lm_loss'] / B),
  ):
    expected = float(arrays[f'choice/{name}'])
    assert float(got) == pytest.approx(expected, rel=1e-6), name
  assert_gradients(grads, arrays, 'choice/grad/', model.config.n_head)


@pytest.mark.peers
@pytest.mark.slow
def test_the_full_shape_is_the_released_one():
  model, params, arrays = ours(full)
  count = sum(x.size for x in jax.tree.leaves(params['gpt']))
  assert count == gpt.num_parameters(model.config) == 116_534_784
  assert arrays['lm/logits'].shape == (1, 512, 40_478)
