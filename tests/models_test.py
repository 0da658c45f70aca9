"""Tests GPT and LSTM: equations, sizes, initial weights, invariances."""

import dataclasses
import functools
import math

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from gpt1_jax.model import gpt, layers, models
from gpt1_jax.train import losses, step as step_lib
from tests.support import networks, reference, updates
from tests.support.networks import DROPOUT_KEY

GPT, LSTM = networks.GPT_CONFIG, networks.LSTM_CONFIG
EACH = pytest.mark.parametrize('config', [GPT, LSTM], ids=['gpt', 'lstm'])
KEYS = pytest.mark.parametrize(
  'key', [None, DROPOUT_KEY], ids=['still', 'dropping']
)
BATCH = {name: x[1:4] for name, x in updates.BATCH.items()}
TOKENS = jnp.asarray(BATCH['tokens'])


def slow(*values):
  return pytest.param(*values, marks=pytest.mark.slow)


def params_of(config):
  return networks.lstm_params() if config == LSTM else networks.gpt_params(GPT)


def apply(config, params, tokens=TOKENS, key=DROPOUT_KEY):
  model = models.new(config)
  return model.apply({'params': params}, tokens, dropout_key=key)


def loss(config, params, tokens=TOKENS, key=DROPOUT_KEY):
  h_BTD, embed_VD = apply(config, params, tokens, key)
  return losses.lm_loss(h_BTD, embed_VD, tokens, jnp.ones(tokens.shape))


@pytest.mark.parametrize(
  ('config', 'sizes', 'parameters', 'flops'),
  [
    (GPT, {'n_layer': 12, 'n_head': 12}, 116_534_784, 752_753_664),
    (LSTM, {'units': 2048}, 55_737_600, 6 * (55_737_600 - 4 * 2048 - 768)),
  ],
  ids=['gpt', 'lstm'],
)
def test_parameters_and_flops_at_full_size(config, sizes, parameters, flops):
  """The LSTM has GPT-1's width, context and vocabulary (P §5).

  An update of an LSTM costs three forward passes of all products.
  """
  config = dataclasses.replace(
    config, n_embd=768, n_ctx=512, vocab_size=40_478, **sizes
  )
  init = functools.partial(models.new(config).init, dropout_key=None)
  shapes = jax.eval_shape(init, jax.random.key(0), TOKENS)
  count = sum(math.prod(x.shape) for x in jax.tree.leaves(shapes))
  assert count == models.num_parameters(config) == parameters
  assert models.flops_per_token(config) == flops


@KEYS
@EACH
def test_no_position_sees_a_later_one(config, key):
  """Takes the gradient of each state by each token's embedding."""
  tokens = np.arange(16)[None] + 7  # all different
  params = params_of(config)
  weights = jnp.arange(1.0, config.n_embd + 1)

  def states(embed_VD):
    out, _ = apply(config, {**params, 'tokens_embed': embed_VD}, tokens, key)
    return out[0] @ weights

  jacobian_TVD = jax.jit(jax.jacrev(states))(params['tokens_embed'])
  reach_TT = np.abs(np.asarray(jacobian_TVD)).sum(axis=2)[:, tokens[0]] > 0
  np.testing.assert_array_equal(reach_TT, np.tril(np.ones((16, 16), bool)))


@KEYS
@pytest.mark.parametrize(
  ('config', 'embedding', 'rows'),
  [
    (GPT, 'sum', 'tokens'),
    (GPT, 'matrix', 'all'),
    slow(GPT, 'sum', 'all'),
    slow(GPT, 'matrix', 'tokens'),
    (LSTM, 'sum', 'tokens'),
  ],
)
def test_the_equations_in_numpy(config, embedding, rows, key):
  """Compares logits and the loss, with dropout at every site.

  With 'matrix' the look-up and the logits use one matrix after dropout.
  """
  params = params_of(config)
  if config == GPT:
    rates = {'embd_pdrop': 0.3, 'attn_pdrop': 0.2, 'resid_pdrop': 0.1}
    config = dataclasses.replace(
      config, embedding_dropout=embedding, softmax_rows=rows, **rates
    )
    params = jax.tree.map(lambda x: x + 0.05, params)  # biases, too
  drop = networks.masks(config, key) if key is not None else reference.keep
  exact = reference.float64(jax.device_get(params))
  if config == LSTM:
    h, rows_VD = reference.lstm(exact, BATCH['tokens'], drop)
  else:
    h, rows_VD = reference.forward(
      exact, BATCH['tokens'], embedding, rows, drop
    )
    assert len(rows_VD) == 101 + 16 * (rows == 'all')
  loss_fn = step_lib.pretrain_loss(models.new(config))
  ids_B = jnp.arange(3, dtype=jnp.uint32)
  batch = jax.tree.map(jnp.asarray, BATCH)

  @jax.jit
  def computed(params):
    states = apply(config, params, key=key)
    return states, loss_fn({'gpt': params}, batch, key, ids_B)

  (h_BTD, embed_VD), (total, weight, _) = computed(params)
  np.testing.assert_allclose(embed_VD, rows_VD, rtol=2e-7)
  if key is None:  # tied to the embedding, bit for bit
    np.testing.assert_array_equal(embed_VD[:101], params['tokens_embed'])
  found = gpt.logits(h_BTD, embed_VD)
  np.testing.assert_allclose(found, h @ rows_VD.T, rtol=0, atol=2e-5)
  found_too = np.einsum('btd,vd->btv', h_BTD, embed_VD)
  np.testing.assert_allclose(found, found_too, rtol=0, atol=2e-6)
  if config == LSTM:
    np.testing.assert_allclose(h_BTD, h, rtol=0, atol=1e-5)
  weights = BATCH['lm_weights']
  assert float(weight) == weights[:, 1:].sum()
  nll = reference.lm_nll(h, rows_VD, BATCH['tokens'])
  expected = reference.lm_loss(nll, weights, 'tokens')
  assert float(total / weight) == pytest.approx(expected, rel=1e-6)


def test_weights_start_small_biases_at_zero_gains_at_one():
  """Each tensor is N(0, 0.02): |z| < 4.5, which fails once in 150,000."""
  fresh = reference.flat(jax.device_get(networks.fresh(GPT)))
  for name, x in fresh.items():
    if name.endswith('bias'):
      assert not x.any(), name
    elif name.endswith('scale'):
      assert (x == 1).all(), name
    else:
      assert abs(x.mean()) < 4.5 * 0.02 / x.size**0.5, name
      assert abs(x.std() - 0.02) < 4.5 * 0.02 / (2 * x.size) ** 0.5, name
      kurtosis = ((x / x.std()) ** 4).mean()
      assert abs(kurtosis - 3) < 4.5 * (24 / x.size) ** 0.5, name


@EACH
def test_loss_starts_at_the_logarithm_of_the_vocabulary(config):
  config = dataclasses.replace(config, vocab_size=2000)
  start = loss(config, networks.fresh(config), key=None) / (3 * 15)
  assert abs(float(start) - math.log(2000)) < 0.1


@functools.cache
def gradient(config):
  """Returns the loss with dropout at fixed weights, and its gradient, flat."""
  value, grad = jax.jit(jax.value_and_grad(functools.partial(loss, config)))(
    networks.gpt_params(GPT)
  )
  return float(value), reference.flat(jax.device_get(grad))


def assert_near(found, expected, bound, loss_bound=1e-6):
  """Bounds the loss, and each gradient's error relative to its norm."""
  assert found[0] == pytest.approx(expected[0], rel=loss_bound)
  for name, x in expected[1].items():
    error = np.linalg.norm(found[1][name] - x) / np.linalg.norm(x)
    assert error <= bound, (name, error)


@pytest.mark.parametrize(
  ('remat', 'unroll'),
  [
    ('dots', 1),
    slow('dots_except_qkv', 1),
    slow('full', 1),
    slow('none', 2),
    slow('dots', 2),
  ],
)
def test_recomputed_and_unrolled_equal_stored_and_looped(remat, unroll):
  changed = dataclasses.replace(GPT, remat=remat, unroll=unroll)
  assert_near(gradient(changed), gradient(GPT), 1e-6)


def test_dots_except_qkv_keeps_no_queries_keys_and_values():
  def kept(remat):
    config = dataclasses.replace(GPT, remat=remat)
    pull_back = jax.eval_shape(
      lambda params: jax.vjp(functools.partial(loss, config), params)[1],
      params_of(GPT),
    )
    return sum(x.size for x in jax.tree.leaves(pull_back))

  qkv = 3 * GPT.n_layer * TOKENS.size * GPT.n_embd
  assert kept('dots') - kept('dots_except_qkv') == qkv


@pytest.mark.parametrize('remat', ['none', slow('dots'), slow('full')])
def test_other_machines_loop_over_layers_the_same(monkeypatch, remat):
  """`layers` loops on CPUs, nn.scan on TPUs and GPUs."""
  config = dataclasses.replace(GPT, remat=remat)
  ours, looped = layers.apply, []

  def spy(*args):
    looped.append(args)
    return ours(*args)

  monkeypatch.setattr(layers, 'apply', spy)
  expected = gradient.__wrapped__(config)
  assert looped
  looped.clear()
  monkeypatch.setattr(gpt, 'platform', lambda: 'tpu')
  assert_near(gradient.__wrapped__(config), expected, 1e-6)
  assert not looped


@pytest.mark.parametrize(
  ('remat', 'unroll', 'where', 'recomputed'),
  [
    ('auto', 1, 'cpu', True),
    ('auto', 2, 'cpu', False),
    ('auto', 2, 'tpu', True),
    ('dots', 2, 'cpu', True),
    ('none', 1, 'tpu', False),
  ],
)
def test_auto_recomputes_except_unrolled_on_a_cpu(
  remat, unroll, where, recomputed, monkeypatch
):
  monkeypatch.setattr(gpt, 'platform', lambda: where)
  config = dataclasses.replace(GPT, remat=remat, unroll=unroll)
  jaxpr = jax.make_jaxpr(functools.partial(loss, config))(params_of(GPT))
  assert ('remat' in str(jaxpr)) == recomputed


@EACH
def test_bfloat16_stays_near_float32(config):
  """States stay within 1% in norm, the loss within 0.1%, gradients within 2%.

  One rounding to bfloat16 costs up to 0.4%. Dropout is on and drops the same.
  """
  other = dataclasses.replace(config, dtype='bfloat16')
  (a, _), (b, _) = (
    jax.jit(functools.partial(apply, c))(params_of(config))
    for c in (config, other)
  )
  assert (a.dtype, b.dtype) == (jnp.float32, jnp.bfloat16)
  error = jnp.linalg.norm(a - b.astype(jnp.float32)) / jnp.linalg.norm(a)
  assert float(error) <= 0.01
  if config == GPT:
    found = gradient(other)
    assert {x.dtype for x in found[1].values()} == {np.dtype(np.float32)}
    assert_near(found, gradient(GPT), 0.02, loss_bound=1e-3)
