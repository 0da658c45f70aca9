"""The network: its size, its causality, its start, what must not change it."""

import dataclasses
import functools
import math

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from gpt1_jax.model import gpt, layers
from gpt1_jax.train import losses
from tests.support import networks, reference
from tests.support.networks import (
  DROPOUT_KEY,
  GPT_CONFIG,
  fresh_gpt,
  gpt_params,
)


def loss(model, params, tokens, dropout_key=DROPOUT_KEY):
  h_BTD, embed_VD = model.apply(params, tokens, dropout_key=dropout_key)
  return losses.lm_loss(h_BTD, embed_VD, tokens, jnp.ones(tokens.shape))


def test_parameters_of_the_released_shapes():
  config = dataclasses.replace(
    GPT_CONFIG, n_layer=12, n_head=12, n_embd=768, n_ctx=512, vocab_size=40478
  )
  shapes = jax.eval_shape(
    lambda: gpt.GPT(config).init(
      jax.random.key(0), jnp.zeros((1, 8), jnp.int32), dropout_key=None
    )
  )
  count = sum(math.prod(x.shape) for x in jax.tree.leaves(shapes))
  assert count == gpt.num_parameters(config) == 116_534_784
  assert gpt.flops_per_token(config) == 752_753_664


@pytest.mark.parametrize(
  'dropout_key', [None, DROPOUT_KEY], ids=['still', 'dropping']
)
def test_no_position_sees_a_later_one(dropout_key):
  """By gradients: each state by the embedding at each position."""
  params, tokens = gpt_params(GPT_CONFIG), fresh_gpt(GPT_CONFIG)[2]
  weights = jnp.arange(1.0, GPT_CONFIG.n_embd + 1)

  def states(positions_TD):
    changed = {**params, 'positions_embed': positions_TD}
    out, _ = gpt.GPT(GPT_CONFIG).apply(
      {'params': changed}, tokens[:1], dropout_key=dropout_key
    )
    return out[0] @ weights

  jacobian_TTD = jax.jit(jax.jacrev(states))(params['positions_embed'])
  reach_TT = np.abs(np.asarray(jacobian_TTD)).sum(axis=2) > 0
  np.testing.assert_array_equal(reach_TT, np.tril(np.ones((16, 16), bool)))


def test_the_softmax_is_tied_to_the_embedding():
  model, params, tokens = fresh_gpt(GPT_CONFIG)
  h_BTD, embed_VD = model.apply(params, tokens, dropout_key=None)
  np.testing.assert_array_equal(embed_VD, params['params']['tokens_embed'])
  expected = np.einsum('btd,vd->btv', h_BTD, embed_VD)
  np.testing.assert_allclose(
    gpt.logits(h_BTD, embed_VD), expected, atol=2e-6, rtol=0
  )


@pytest.mark.parametrize('embedding_dropout', ['sum', 'matrix'])
@pytest.mark.parametrize('softmax_rows', ['tokens', 'all'])
@pytest.mark.parametrize(
  'dropout_key', [None, DROPOUT_KEY], ids=['still', 'dropping']
)
def test_the_equations_in_numpy(embedding_dropout, softmax_rows, dropout_key):
  """Logits and loss, with every site of dropout where it belongs.

  In 'matrix' the look-up and the logits see one dropped matrix.
  """
  config = dataclasses.replace(
    GPT_CONFIG,
    embedding_dropout=embedding_dropout,
    softmax_rows=softmax_rows,
    embd_pdrop=0.3,
    attn_pdrop=0.2,
    resid_pdrop=0.1,
  )
  params, tokens = gpt_params(config), fresh_gpt(config)[2]
  params = jax.tree.map(lambda x: x + 0.05, params)  # biases, too
  forward = jax.jit(
    functools.partial(gpt.GPT(config).apply, dropout_key=dropout_key)
  )
  h_BTD, embed_VD = forward({'params': params}, tokens)
  h, rows = reference.forward(
    reference.float64(jax.device_get(params)),
    np.asarray(tokens),
    embedding_dropout,
    softmax_rows,
    reference.keep
    if dropout_key is None
    else networks.gpt_dropout(config, dropout_key),
  )
  assert rows.shape == (101 + 16 * (softmax_rows == 'all'), 64)
  np.testing.assert_allclose(embed_VD, rows, rtol=2e-7)
  np.testing.assert_allclose(
    gpt.logits(h_BTD, embed_VD), h @ rows.T, rtol=0, atol=2e-5
  )
  ones = np.ones(tokens.shape)
  nll = reference.lm_nll(h, rows, np.asarray(tokens))
  got = losses.lm_loss(h_BTD, embed_VD, tokens, jnp.asarray(ones)) / (3 * 15)
  expected = reference.lm_loss(nll, ones, 'tokens')
  assert float(got) == pytest.approx(expected, rel=1e-6)


def test_weights_start_small_biases_at_zero_gains_at_one():
  """N(0, 0.02), each tensor (|z| < 4.5: once in 150,000)."""
  for name, x in reference.flat(
    jax.device_get(fresh_gpt(GPT_CONFIG)[1]['params'])
  ).items():
    if name.endswith('bias'):
      assert not x.any(), name
    elif name.endswith('scale'):
      assert (x == 1).all(), name
    else:
      assert abs(x.mean()) < 4.5 * 0.02 / x.size**0.5, name
      assert abs(x.std() - 0.02) < 4.5 * 0.02 / (2 * x.size) ** 0.5, name
      kurtosis = ((x / x.std()) ** 4).mean()
      assert abs(kurtosis - 3) < 4.5 * (24 / x.size) ** 0.5, name


def test_loss_starts_at_the_logarithm_of_the_vocabulary():
  model, params, tokens = fresh_gpt(
    dataclasses.replace(GPT_CONFIG, vocab_size=2000)
  )
  start = loss(model, params, tokens, None) / (3 * 15)
  assert abs(float(start) - math.log(2000)) < 0.1


@functools.cache
def gradient(config):
  """Loss with dropout at fixed weights, and its gradient, flat."""
  tokens = fresh_gpt(GPT_CONFIG)[2]
  value, grad = jax.jit(
    jax.value_and_grad(lambda p: loss(gpt.GPT(config), {'params': p}, tokens))
  )(gpt_params(GPT_CONFIG))
  return float(value), reference.flat(jax.device_get(grad))


def assert_near(grads, expected, bound):
  """Norm of each tensor's error, as a share of the tensor's norm."""
  for name, x in expected.items():
    error = np.linalg.norm(grads[name] - x) / np.linalg.norm(x)
    assert error <= bound, (name, error)


@pytest.mark.parametrize(
  'change',
  [
    {'remat': 'dots'},
    {'remat': 'full'},
    {'unroll': 2},
    {'remat': 'dots', 'unroll': 2},
  ],
)
def test_recomputed_and_unrolled_equal_stored_and_looped(change):
  stored, expected = gradient(GPT_CONFIG)
  other, grads = gradient(dataclasses.replace(GPT_CONFIG, **change))
  assert other == pytest.approx(stored, rel=1e-6)
  assert_near(grads, expected, 1e-6)


@pytest.mark.parametrize('remat', ['none', 'dots', 'full'])
def test_other_machines_loop_over_layers_the_same(monkeypatch, remat):
  """The loop of `layers` is for CPUs, flax's for TPUs and GPUs."""
  config = dataclasses.replace(GPT_CONFIG, remat=remat)
  apply, looped = layers.apply, []

  def spy(*args):
    looped.append(args)
    return apply(*args)

  monkeypatch.setattr(layers, 'apply', spy)
  ours, expected = gradient.__wrapped__(config)
  assert looped
  looped.clear()
  monkeypatch.setattr(gpt, 'platform', lambda: 'tpu')
  other, grads = gradient.__wrapped__(config)
  assert not looped
  assert other == pytest.approx(ours, rel=1e-6)
  assert_near(grads, expected, 1e-6)


@pytest.mark.parametrize(
  ('remat', 'unroll', 'recomputed'),
  [
    ('auto', 1, True),
    ('auto', 2, False),
    ('dots', 2, True),
    ('none', 1, False),
  ],
)
def test_a_loop_over_layers_recomputes_by_itself(remat, unroll, recomputed):
  tokens = fresh_gpt(GPT_CONFIG)[2]
  config = dataclasses.replace(GPT_CONFIG, remat=remat, unroll=unroll)
  found = jax.make_jaxpr(lambda p: loss(gpt.GPT(config), {'params': p}, tokens))
  assert ('remat' in str(found(gpt_params(GPT_CONFIG)))) == recomputed


def test_bfloat16_stays_near_float32():
  """States within 1% in norm, the loss within 0.1%, each gradient within 2%.

  One rounding to bfloat16 costs up to 0.4%. Dropout is on: both drop alike.
  """
  params, tokens = gpt_params(GPT_CONFIG), fresh_gpt(GPT_CONFIG)[2]
  other = dataclasses.replace(GPT_CONFIG, dtype='bfloat16')
  a, _ = gpt.GPT(GPT_CONFIG).apply(
    {'params': params}, tokens, dropout_key=DROPOUT_KEY
  )
  b, _ = gpt.GPT(other).apply(
    {'params': params}, tokens, dropout_key=DROPOUT_KEY
  )
  assert b.dtype == jnp.bfloat16
  error = jnp.linalg.norm(a - b.astype(jnp.float32)) / jnp.linalg.norm(a)
  assert float(error) <= 0.01
  expected_loss, expected = gradient(GPT_CONFIG)
  value, grads = gradient(other)
  assert value == pytest.approx(expected_loss, rel=1e-3)
  assert {x.dtype for x in grads.values()} == {np.dtype(np.float32)}
  assert_near(grads, expected, 0.02)
