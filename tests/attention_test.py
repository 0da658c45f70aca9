"""Compares attention by blocks and by interpreted kernels with all pairs.

All draw the same masks, so they agree to rounding. tpu_test compiles the TPU
kernel for TPUs.
"""

import dataclasses
import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from gpt1_jax.model import attention, causal, dropout, flash, flash_gpu, gpt
from gpt1_jax.train import losses, sharding
from tests.support import networks
from tests.support.meshes import make_mesh

KEY = networks.DROPOUT_KEY
DROP = dropout.Dropout(
  0.1,
  KEY,
  dropout.site_id(3, dropout.ATTENTION),
  jnp.array([7, 2**20 + 1], jnp.uint32),  # neither small nor consecutive
)


def draw(shape, dtype=jnp.float32):
  """Draws queries, keys and values [3, B, T, H, K], and d_out."""
  qkv, d_out = jax.random.split(jax.random.key(0))
  return (
    jax.random.normal(qkv, shape).astype(dtype),
    jax.random.normal(d_out, shape[1:]).astype(dtype),
  )


def all_pairs(qkv_CBTHK, rate, key=KEY):
  mask = jnp.tril(jnp.ones([qkv_CBTHK.shape[2]] * 2, bool))
  return attention.attend(*qkv_CBTHK, mask, DROP._replace(rate=rate, key=key))


def blocks(qkv_CBTHK, rate, key=KEY):
  drop = DROP._replace(rate=rate, key=key)
  return causal.attend(jnp.moveaxis(qkv_CBTHK, 0, 2), drop)


def _kernel(kernels, qkv_CBTHK, rate, key=KEY):
  _, B, T, H, K = qkv_CBTHK.shape
  drop = DROP._replace(rate=rate, key=key)
  out_BTN = attention.attend_flash(
    qkv_CBTHK.reshape(3, B, T, H * K), H, drop, kernels
  )
  return out_BTN.reshape(B, T, H, K)


tpu, gpu = (
  functools.partial(_kernel, kernels) for kernels in (flash, flash_gpu)
)
KERNELS = pytest.mark.parametrize('kernel', [tpu, gpu], ids=['tpu', 'gpu'])


@functools.partial(jax.jit, static_argnums=(0, 2))
def with_gradient(path, qkv_CBTHK, rate, d_out_BTHK):
  out_BTHK, pull = jax.vjp(lambda x: path(x, rate), qkv_CBTHK)
  return out_BTHK, pull(d_out_BTHK)[0]


def as_float32(*values):
  return [x if isinstance(x, float) else x.astype(jnp.float32) for x in values]


def error(x, y):
  """Returns the norm of the difference, relative to the norm of y."""
  return float(jnp.linalg.norm(x - y) / jnp.linalg.norm(y))


@pytest.mark.parametrize('rate', [0.0, 0.1])
# One block, less than one, blocks and a remainder, whole blocks.
@pytest.mark.parametrize('T', [128, 37, 300, 256])
def test_blocks_equal_all_pairs(T, rate):
  qkv, d_out = draw((3, 2, T, 3, 16))
  out, d_qkv = with_gradient(all_pairs, qkv, rate, d_out)
  found, d_found = with_gradient(blocks, qkv, rate, d_out)
  np.testing.assert_allclose(found, out, atol=1e-5, rtol=1e-5)
  np.testing.assert_allclose(d_found, d_qkv, atol=1e-5, rtol=1e-4)


@pytest.mark.parametrize(
  ('shape', 'rate'),
  [
    ((3, 2, 512, 2, 64), 0.1),  # the paper's length and head width
    ((3, 2, 256, 3, 64), 0.1),  # heads that do not pair: all at a time
    ((3, 2, 128, 4, 32), 0.0),
    ((3, 2, 256, 1, 128), 0.5),
  ],
)
@KERNELS
def test_kernels_equal_all_pairs(shape, rate, kernel):
  qkv, d_out = draw(shape)
  expected, expected_d = with_gradient(all_pairs, qkv, rate, d_out)
  out, d_qkv = with_gradient(kernel, qkv, rate, d_out)
  np.testing.assert_allclose(out, expected, atol=1e-5, rtol=1e-5)
  np.testing.assert_allclose(d_qkv, expected_d, atol=1e-4, rtol=1e-4)


@pytest.mark.parametrize('T', [37, 300])
def test_blocks_in_bfloat16_are_as_close_to_float32_as_all_pairs(T):
  """Compares norms: each rounds probabilities and gradients once to 8 bits."""
  qkv, d_out = draw((3, 2, T, 3, 16), jnp.bfloat16)
  exact = with_gradient(all_pairs, *as_float32(qkv, 0.1, d_out))
  for path in (all_pairs, blocks):
    found = with_gradient(path, qkv, 0.1, d_out)
    assert {x.dtype for x in found} == {jnp.dtype(jnp.bfloat16)}
    for x, y in zip(as_float32(*found), exact, strict=True):
      assert error(x, y) <= 0.006


@KERNELS
def test_kernels_in_bfloat16_differ_by_their_rounding(kernel):
  """Outputs differ by one rounding, gradients by 2^-8 in norm.

  Against float32 the kernels are as close as the blocks.
  """
  qkv, d_out = draw((3, 2, 128, 2, 64), jnp.bfloat16)
  exact = with_gradient(all_pairs, *as_float32(qkv, 0.1, d_out))
  expected, found = (
    as_float32(*with_gradient(path, qkv, 0.1, d_out))
    for path in (blocks, kernel)
  )
  np.testing.assert_allclose(found[0], expected[0], rtol=2**-7, atol=2**-9)
  assert error(found[1], expected[1]) <= 2**-8
  for i in range(2):
    assert error(found[i], exact[i]) <= 1.01 * error(expected[i], exact[i])


@functools.cache
def kept(kernel):
  """Returns the mask that the kernel draws: bool [B, H, T, S], T = S = 128.

  With the rows of the identity as values, the outputs are the probabilities.
  """
  B, T, H = 2, 128, 3
  v_BTHK = jnp.broadcast_to(jnp.eye(T)[None, :, None], (B, T, H, T))
  qkv = jnp.stack([jnp.zeros_like(v_BTHK), jnp.zeros_like(v_BTHK), v_BTHK])
  return np.asarray(kernel(qkv, 0.3)).transpose(0, 2, 1, 3) > 0


@KERNELS
def test_masks_of_the_kernels_equal_the_plain_ones(kernel):
  bits = dropout.random_bits((2, 3, 128, 128), DROP)
  lower = np.tril(np.ones((128, 128), bool))
  expected = np.asarray(bits >= np.uint32(round(0.3 * 2**32))) & lower
  np.testing.assert_array_equal(kept(kernel), expected)


def test_masks_have_the_rate_and_are_independent():
  """Bounds the z of the rate, and of each pair of heads and sequences."""
  dropped = ~kept(tpu)[..., np.tril(np.ones((128, 128), bool))]
  streams = dropped.reshape(6, -1).astype(np.float64) - 0.3
  n = streams.shape[1]
  assert np.abs(streams.sum(1)).max() < 4.5 * (0.21 * n) ** 0.5
  products = streams @ streams.T / (0.21 * n**0.5)
  assert np.abs(products[np.triu_indices(6, 1)]).max() < 4.5


@pytest.mark.parametrize('path', [blocks, tpu])
def test_without_a_key_nothing_is_dropped(path):
  qkv, _ = draw((3, 2, 128, 2, 64))
  np.testing.assert_array_equal(path(qkv, 0.5, key=None), path(qkv, 0.0))


def test_bits_of_a_part_are_those_of_the_whole():
  shape = (2, 4, 6, 10)
  whole = dropout.random_bits(shape, DROP)
  keys = dropout.row_keys(DROP)
  part = dropout.part_bits((2, 2, 3, 4), (1, 2, 5), shape[1:], *keys)
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


def test_blocks_hold_no_array_of_all_pairs():
  B, T, H = 2, 1024, 3
  qkv, d_out = draw((3, B, T, H, 16))
  step = functools.partial(with_gradient, blocks)
  jaxpr = jax.make_jaxpr(step, static_argnums=1)(qkv, 0.1, d_out)
  assert max(array_sizes(jaxpr.jaxpr)) == B * H * T * causal.BLOCK


def gpt_loss(config, tokens, params):
  h_BTD, embed_VD = gpt.GPT(config).apply(
    {'params': params}, tokens, dropout_key=KEY
  )
  return losses.lm_loss(h_BTD, embed_VD, tokens, jnp.ones(tokens.shape))


def num_consts(loop):
  """Returns how many operands of a scan are the same in all iterations.

  The carry comes after them, then arrays that an iteration gets a slice of.
  """
  body = loop.params['jaxpr']

  def num_alike(outer, inner):
    pairs = zip(outer, inner, strict=True)
    return sum(x.aval.shape == aval.shape for x, aval in pairs)

  num_unsliced = num_alike(loop.invars, body.in_avals)
  return num_unsliced - num_alike(loop.outvars, body.out_avals)


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
  loss = functools.partial(gpt_loss, config, tokens)
  jaxpr = jax.make_jaxpr(jax.value_and_grad(loss))(params).jaxpr
  weights = {x.shape for x in jax.tree.leaves(params['h'])}
  loops = [
    e
    for e in jaxpr.eqns
    if e.primitive.name == 'scan' and e.params['length'] == config.n_layer
  ]
  assert len(loops) == 2
  for loop in loops:
    consts = loop.invars[: num_consts(loop)]
    sizes = [v.aval.size for v in consts if v.aval.shape not in weights]
    # At most the causal mask of one block of one head.
    assert max(sizes, default=0) <= config.n_ctx**2


@KERNELS
@pytest.mark.parametrize('sizes', [(2, 1, 1), (1, 2, 1), (1, 1, 2), (2, 1, 2)])
def test_kernels_give_the_same_output_on_every_mesh(sizes, kernel):
  qkv, d_out = draw((3, 2, 128, 4, 64))
  expected = with_gradient(kernel, qkv, 0.1, d_out)
  with sharding.use(make_mesh(*sizes)):
    # jit's cache key includes the mesh, so this compiles again.
    found = with_gradient(kernel, qkv, 0.1, d_out)
  assert found[0].sharding.num_devices == np.prod(sizes)
  for x, y in zip(found, expected, strict=True):
    np.testing.assert_allclose(x, y, atol=1e-6, rtol=1e-6)


MODEL = dataclasses.replace(
  networks.GPT_CONFIG, n_embd=128, n_head=2, n_ctx=128, attention='plain'
)


@pytest.mark.parametrize('kernels', [flash, flash_gpu])
@pytest.mark.parametrize('remat', ['none', 'dots', 'dots_except_qkv', 'full'])
def test_loss_and_gradient_equal_the_plain_ones(remat, kernels, monkeypatch):
  monkeypatch.setattr(attention, 'kernels', lambda: kernels)
  tokens = jax.random.randint(jax.random.key(1), (2, 128), 0, 101)
  params = networks.gpt_params(MODEL)
  other = dataclasses.replace(MODEL, attention='flash', remat=remat)
  (expected, expected_d), (found, found_d) = (
    jax.jit(jax.value_and_grad(functools.partial(gpt_loss, config, tokens)))(
      params
    )
    for config in (MODEL, other)
  )
  assert float(found) == pytest.approx(float(expected), rel=1e-6)
  for x, y in zip(*map(jax.tree.leaves, (found_d, expected_d)), strict=True):
    assert jnp.linalg.norm(x - y) <= 1e-5 * jnp.linalg.norm(y)


def test_initial_parameters_equal_the_plain_ones():
  flash_model = dataclasses.replace(MODEL, attention='flash')
  a, b = networks.fresh(MODEL), networks.fresh(flash_model)
  jax.tree.map(np.testing.assert_array_equal, a, b)
