"""The LSTM of Table 5: its equations, its size, what must not change it."""

import dataclasses
import functools
import math

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import linen as nn

from gpt1_jax.errors import UserError
from gpt1_jax.model import dropout, gpt, lstm, models
from gpt1_jax.train import losses, optim, sharding, step as step_lib
from tests.support import networks, reference, updates
from tests.support.networks import DROPOUT_KEY, LSTM_CONFIG, lstm_params

TOKENS = updates.BATCH['tokens'][:3]


def numpy_lstm(p, tokens_BT, drop):
  """States in float64, gate by gate and step by step."""

  def sigmoid(x):
    return 1 / (1 + np.exp(-x))

  x_BTD = drop('embedding', p['tokens_embed'][tokens_BT])
  B, T, _ = x_BTD.shape
  U = len(p['c_proj']['kernel'])
  memory_BU, h_BU = np.zeros((B, U)), np.zeros((B, U))
  out = np.zeros((B, T, U))
  for t in range(T):
    gate = {
      name: x_BTD[:, t] @ p['lstm'][f'i{name}']['kernel']
      + h_BU @ p['lstm'][f'h{name}']['kernel']
      + p['lstm'][f'h{name}']['bias']
      for name in 'ifgo'
    }
    memory_BU = sigmoid(gate['f']) * memory_BU
    memory_BU += sigmoid(gate['i']) * np.tanh(gate['g'])
    h_BU = sigmoid(gate['o']) * np.tanh(memory_BU)
    out[:, t] = h_BU
  out = drop('output', out)
  return out @ p['c_proj']['kernel'] + p['c_proj']['bias']


def masks(site, x):
  """The package's masks, where dropout belongs."""
  rate, number = {
    'embedding': (LSTM_CONFIG.embd_pdrop, dropout.EMBEDDING),
    'output': (LSTM_CONFIG.output_pdrop, dropout.LSTM_OUTPUT),
  }[site]
  rows = jnp.arange(len(x), dtype=jnp.uint32)
  number = dropout.site_id(0, number)
  ones = jnp.ones(x.shape)
  drop = dropout.Dropout(rate, DROPOUT_KEY, number, rows)
  return x * np.asarray(dropout.apply(ones, drop))


@pytest.mark.parametrize(
  'dropout_key', [None, DROPOUT_KEY], ids=['still', 'dropping']
)
def test_the_equations_in_numpy(dropout_key):
  params = lstm_params()
  h_BTD, embed_VD = jax.jit(
    functools.partial(lstm.LSTM(LSTM_CONFIG).apply, dropout_key=dropout_key)
  )({'params': params}, TOKENS)
  expected = numpy_lstm(
    reference.float64(jax.device_get(params)),
    TOKENS,
    (lambda _, x: x) if dropout_key is None else masks,
  )
  np.testing.assert_allclose(h_BTD, expected, rtol=0, atol=1e-5)
  np.testing.assert_array_equal(embed_VD, params['tokens_embed'])
  np.testing.assert_allclose(
    gpt.logits(h_BTD, embed_VD),
    expected @ np.asarray(embed_VD, np.float64).T,
    rtol=0,
    atol=2e-5,
  )


@pytest.mark.parametrize(
  'dropout_key', [None, DROPOUT_KEY], ids=['still', 'dropping']
)
def test_no_position_sees_a_later_one(dropout_key):
  """By gradients: every token is another row, so rows tell positions."""
  tokens = np.arange(16)[None] + 7
  weights = jnp.arange(1.0, LSTM_CONFIG.n_embd + 1)

  def states(embed_VD):
    params = {**lstm_params(), 'tokens_embed': embed_VD}
    out, _ = lstm.LSTM(LSTM_CONFIG).apply(
      {'params': params}, tokens, dropout_key=dropout_key
    )
    return out[0] @ weights

  jacobian_TVD = jax.jit(jax.jacrev(states))(lstm_params()['tokens_embed'])
  reach_TT = np.abs(np.asarray(jacobian_TVD)).sum(axis=2)[:, tokens[0]] > 0
  np.testing.assert_array_equal(reach_TT, np.tril(np.ones((16, 16), bool)))


def test_parameters_and_operations_of_the_paper():
  """At GPT-1's vocabulary and width; an update is three times a forward."""
  config = dataclasses.replace(
    LSTM_CONFIG, units=2048, n_embd=768, n_ctx=512, vocab_size=40478
  )
  shapes = jax.eval_shape(
    lambda: lstm.LSTM(config).init(jax.random.key(0), TOKENS, dropout_key=None)
  )
  count = sum(math.prod(x.shape) for x in jax.tree.leaves(shapes))
  assert count == models.num_parameters(config) == 55_737_600
  products = count - 4 * 2048 - 768  # biases
  assert models.flops_per_token(config) == 6 * products


def test_bfloat16_stays_near_float32():
  """States within 1% in norm: a rounding to bfloat16 costs up to 0.4%."""
  params = lstm_params()
  other = dataclasses.replace(LSTM_CONFIG, dtype='bfloat16')
  a, _ = lstm.LSTM(LSTM_CONFIG).apply(
    {'params': params}, TOKENS, dropout_key=DROPOUT_KEY
  )
  b, _ = lstm.LSTM(other).apply(
    {'params': params}, TOKENS, dropout_key=DROPOUT_KEY
  )
  assert (a.dtype, b.dtype) == (jnp.float32, jnp.bfloat16)
  error = jnp.linalg.norm(a - b.astype(jnp.float32)) / jnp.linalg.norm(a)
  assert float(error) <= 0.01


@pytest.mark.slow
@pytest.mark.parametrize('shape', [(1, 1, 4), (2, 2, 2)])
def test_every_mesh_gives_the_same_update_dropout_on(shape):
  updates.assert_same_update(
    updates.one_update(1, shape, LSTM_CONFIG),
    updates.one_update(config=LSTM_CONFIG),
  )


@pytest.mark.slow
def test_microbatches_equal_the_whole_batch_dropout_on():
  updates.assert_same_update(
    updates.one_update(2, config=LSTM_CONFIG),
    updates.one_update(config=LSTM_CONFIG),
  )


def test_a_repeated_batch_is_learned():
  config = dataclasses.replace(
    LSTM_CONFIG, units=128, n_embd=64, embd_pdrop=0.0, output_pdrop=0.0
  )
  assert updates.loss_after_repeating_a_batch(lstm.LSTM(config)) < 0.05


def test_every_parameter_is_placed_by_the_table():
  mesh = sharding.make_mesh(jax.devices(), data=2, fsdp=2, tensor=2)
  optimizer, _ = optim.make_optimizer(updates.OPTIM, 10)
  abstract = jax.eval_shape(
    lambda: updates.new_state(lstm.LSTM(LSTM_CONFIG), optimizer)
  )
  shardings = sharding.state_shardings(abstract, mesh).params['gpt']
  flat = jax.tree_util.tree_leaves_with_path(shardings)
  specs = {'/'.join(k.key for k in path): tuple(s.spec) for path, s in flat}
  expected = {
    'tokens_embed': (None, 'fsdp'),
    'c_proj/kernel': ('tensor', 'fsdp'),
    'c_proj/bias': ('fsdp',),
  }
  for gate in 'ifgo':
    expected[f'lstm/i{gate}/kernel'] = ('fsdp', 'tensor')
    expected[f'lstm/h{gate}/kernel'] = (None, 'tensor')
    expected[f'lstm/h{gate}/bias'] = ('tensor',)
  assert specs == expected
  with pytest.raises(UserError, match='units 3 does not divide over mesh'):
    sharding.check_divides(mesh, 8, 1, n_embd=2, units=3)


def test_no_bias_is_decayed():
  decayed = reference.flat(optim.decayed(lstm_params()))
  assert {name for name, value in decayed.items() if not value} == {
    'c_proj/bias',
    *(f'lstm/h{gate}/bias' for gate in 'ifgo'),
  }


@pytest.mark.parametrize('config', [networks.GPT_CONFIG, LSTM_CONFIG])
def test_a_recorded_configuration_is_read_back(config):
  recorded = dataclasses.asdict(config)
  assert models.read(recorded) == config
  assert isinstance(
    models.new(config), gpt.GPT if 'n_head' in recorded else lstm.LSTM
  )
  with pytest.raises(UserError, match='vocab_size is 0'):
    models.read({**recorded, 'vocab_size': 0})


def test_loss_starts_at_the_logarithm_of_the_vocabulary():
  config = dataclasses.replace(LSTM_CONFIG, vocab_size=2000)
  params = lstm.LSTM(config).init(jax.random.key(0), TOKENS, dropout_key=None)
  h_BTD, embed_VD = lstm.LSTM(config).apply(
    nn.unbox(params), TOKENS, dropout_key=None
  )
  loss = losses.lm_loss(h_BTD, embed_VD, TOKENS, jnp.ones(TOKENS.shape))
  assert abs(float(loss) / (3 * 15) - math.log(2000)) < 0.1


def test_losses_take_either_model():
  loss, weight, _ = step_lib.pretrain_loss(lstm.LSTM(LSTM_CONFIG))(
    {'gpt': lstm_params()},
    jax.tree.map(jnp.asarray, updates.BATCH),
    None,
    None,
  )
  h_BTD = numpy_lstm(
    reference.float64(jax.device_get(lstm_params())),
    updates.BATCH['tokens'],
    lambda _, x: x,
  )
  rows = np.asarray(lstm_params()['tokens_embed'], np.float64)
  nll = reference.lm_nll(h_BTD, rows, updates.BATCH['tokens'])
  weights = updates.BATCH['lm_weights']
  assert float(weight) == weights[:, 1:].sum()
  expected = (nll * weights[:, 1:]).sum()
  assert float(loss) == pytest.approx(expected, rel=1e-6)
