"""Attention block by block against attention over all pairs, masks included."""

import dataclasses
import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from gpt1_jax.model import attention, causal, dropout, gpt
from tests.support import networks

B, H, K = 2, 3, 16
DROP = dropout.Dropout(
  0.1,
  jnp.array([5, 7], jnp.uint32),
  jnp.uint32(9),
  jnp.array([4, 11], jnp.uint32),
)


def draw(T, dtype):
  keys = jax.random.split(jax.random.key(T), 2)
  qkv = jax.random.normal(keys[0], (B, T, 3, H, K), dtype)
  return qkv, jax.random.normal(keys[1], (B, T, H, K), dtype)


def all_pairs(qkv_BTCHK, rate):
  T = qkv_BTCHK.shape[1]
  q, k, v = (qkv_BTCHK[:, :, i] for i in range(3))
  mask = jnp.tril(jnp.ones((T, T), bool))
  return attention.attend(q, k, v, mask, DROP._replace(rate=rate))


def by_blocks(qkv_BTCHK, rate):
  return causal.attend(qkv_BTCHK, DROP._replace(rate=rate))


@functools.partial(jax.jit, static_argnums=(0, 2))
def with_gradient(attend, qkv, rate, d_out):
  out, pull_back = jax.vjp(lambda qkv: attend(qkv, rate), qkv)
  return out, pull_back(d_out)[0]


@pytest.mark.parametrize('rate', [0.0, 0.1])
# One block, less than one, blocks and a remainder, whole blocks.
@pytest.mark.parametrize('T', [128, 37, 300, 256])
def test_float32(T, rate):
  qkv, d_out = draw(T, jnp.float32)
  out, d_qkv = with_gradient(all_pairs, qkv, rate, d_out)
  found, d_found = with_gradient(by_blocks, qkv, rate, d_out)
  np.testing.assert_allclose(found, out, atol=1e-5, rtol=1e-5)
  np.testing.assert_allclose(d_found, d_qkv, atol=1e-5, rtol=1e-4)


@pytest.mark.parametrize('T', [37, 300])
def test_bfloat16_is_as_close_to_float32_as_all_pairs(T):
  """In norm: each rounds probabilities and gradients once to 8 bits."""
  qkv, d_out = draw(T, jnp.bfloat16)
  exact = with_gradient(
    all_pairs, qkv.astype(jnp.float32), 0.1, d_out.astype(jnp.float32)
  )
  for attend in (all_pairs, by_blocks):
    for x, y in zip(with_gradient(attend, qkv, 0.1, d_out), exact, strict=True):
      assert x.dtype == jnp.bfloat16
      error = jnp.linalg.norm((x.astype(jnp.float32) - y).ravel())
      assert error <= 0.006 * jnp.linalg.norm(y.ravel())


def test_without_a_key_nothing_is_dropped():
  qkv, _ = draw(37, jnp.float32)
  found = causal.attend(qkv, DROP._replace(key=None))
  np.testing.assert_array_equal(found, by_blocks(qkv, 0.0))


def test_bits_of_a_part_are_those_of_the_whole():
  shape = (B, 4, 6, 10)
  whole = dropout.random_bits(shape, DROP)
  keys = dropout.row_keys(DROP)
  part = dropout.part_bits((B, 2, 3, 4), (1, 2, 5), shape[1:], *keys)
  np.testing.assert_array_equal(part, whole[:, 1:3, 2:5, 5:9])


def array_sizes(jaxpr):
  """Yields the size of every array that is computed, inside loops too."""
  for equation in jaxpr.eqns:
    yield from (v.aval.size for v in equation.outvars)
    for value in equation.params.values():
      for part in value if isinstance(value, tuple | list) else (value,):
        inner = getattr(part, 'jaxpr', part)
        if hasattr(inner, 'eqns'):
          yield from array_sizes(inner)


def test_no_array_holds_all_pairs():
  T = 1024
  qkv, d_out = draw(T, jnp.float32)
  step = functools.partial(with_gradient, by_blocks)
  jaxpr = jax.make_jaxpr(step, static_argnums=1)(qkv, 0.1, d_out)
  assert max(array_sizes(jaxpr.jaxpr)) == B * H * T * causal.BLOCK


@pytest.mark.parametrize('platform', ['cpu', 'gpu'])
@pytest.mark.parametrize('remat', ['none', 'dots', 'full'])
def test_no_mask_is_hoisted_out_of_the_loop_over_layers(
  monkeypatch, remat, platform
):
  """JAX computes what all iterations share before the loop, and keeps it."""
  monkeypatch.setattr(gpt, 'platform', lambda: platform)
  config = dataclasses.replace(networks.GPT_CONFIG, remat=remat)
  tokens = jnp.zeros((2, config.n_ctx), jnp.int32)
  params = networks.gpt_params(config)

  def loss(params):
    h_BTD, _ = gpt.GPT(config).apply(
      {'params': params}, tokens, dropout_key=DROP.key
    )
    return h_BTD.sum()

  jaxpr = jax.make_jaxpr(jax.value_and_grad(loss))(params).jaxpr
  loops = [e for e in jaxpr.eqns if e.primitive.name == 'scan']
  assert len(loops) == 2
  weights = {x.shape for x in jax.tree.leaves(params['h'])}
  for loop in loops:
    consts = loop.invars[: loop.params['num_consts']]
    sizes = [v.aval.size for v in consts if v.aval.shape not in weights]
    # At most the causal mask of one block of one head.
    assert max(sizes, default=0) <= config.n_ctx**2
