"""The interpreted attention kernel against the plain path.

Both draw the same masks, so they agree to rounding. flash_tpu_test compiles the
kernel for TPUs.
"""

import dataclasses
import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import linen as nn

from gpt1_jax.model import attention, causal, dropout, flash, flash_gpu, gpt
from gpt1_jax.train import losses, sharding
from tests.support import networks
from tests.support.meshes import make_mesh

KEY = jnp.array([3, 5], jnp.uint32)
DROP = dropout.Dropout(
  0.1,
  KEY,
  dropout.site_id(3, dropout.ATTENTION),
  jnp.array([7, 2**20 + 1], jnp.uint32),  # neither small nor consecutive
)


def draw(shape, dtype=jnp.float32):
  qkv, d_out = jax.random.split(jax.random.key(0))
  _, B, T, H, K = shape
  return (
    jax.random.normal(qkv, shape).astype(dtype),
    jax.random.normal(d_out, (B, T, H, K)).astype(dtype),
  )


def plain(qkv_CBTHK, rate):
  T = qkv_CBTHK.shape[2]
  mask = jnp.tril(jnp.ones((T, T), bool))
  return attention.attend(*qkv_CBTHK, mask, DROP._replace(rate=rate))


def train(qkv_CBTHK, rate):
  return causal.attend(jnp.moveaxis(qkv_CBTHK, 0, 2), DROP._replace(rate=rate))


def kernel(qkv_CBTHK, rate, key=KEY, kernels=flash):
  _, B, T, H, K = qkv_CBTHK.shape
  drop = DROP._replace(rate=rate, key=key)
  out_BTN = attention.attend_flash(
    qkv_CBTHK.reshape(3, B, T, H * K), H, drop, kernels
  )
  return out_BTN.reshape(B, T, H, K)


@functools.partial(jax.jit, static_argnums=(0, 2))
def with_gradient(path, qkv_CBTHK, rate, d_out_BTHK):
  out_BTHK, pull = jax.vjp(lambda x: path(x, rate), qkv_CBTHK)
  return out_BTHK, pull(d_out_BTHK)[0]


@pytest.mark.parametrize(
  ('shape', 'rate'),
  [
    ((3, 2, 512, 2, 64), 0.1),  # the paper's length and head width
    ((3, 2, 256, 3, 64), 0.1),  # heads that do not pair: all at a time
    ((3, 2, 128, 4, 32), 0.0),
    ((3, 2, 256, 1, 128), 0.5),
  ],
)
@pytest.mark.parametrize('kernels', [flash, flash_gpu])
def test_kernel_equals_plain(shape, rate, kernels):
  path = functools.partial(kernel, kernels=kernels)
  qkv, d_out = draw(shape)
  expected, expected_d = with_gradient(plain, qkv, rate, d_out)
  out, d_qkv = with_gradient(path, qkv, rate, d_out)
  np.testing.assert_allclose(out, expected, atol=1e-5, rtol=1e-5)
  np.testing.assert_allclose(d_qkv, expected_d, atol=1e-4, rtol=1e-4)


@pytest.mark.parametrize('kernels', [flash, flash_gpu])
def test_bfloat16_differs_by_its_rounding(kernels):
  """Outputs differ by one rounding, gradients by 2^-8 in norm.

  Against float32 the kernels are as close as the plain path of training.
  """
  path = functools.partial(kernel, kernels=kernels)
  qkv, d_out = draw((3, 2, 128, 2, 64), jnp.bfloat16)
  exact = with_gradient(plain, *as_float32(qkv, 0.1, d_out))
  trained, found = (
    as_float32(*with_gradient(f, qkv, 0.1, d_out)) for f in (train, path)
  )
  np.testing.assert_allclose(found[0], trained[0], rtol=2**-7, atol=2**-9)
  assert error(found[1], trained[1]) <= 2**-8
  for i in range(2):
    assert error(found[i], exact[i]) <= 1.01 * error(trained[i], exact[i])


def as_float32(*values):
  return [x if isinstance(x, float) else x.astype(jnp.float32) for x in values]


def error(x, y):
  """Returns the norm of the difference, relative to the norm of y."""
  return float(jnp.linalg.norm(x - y) / jnp.linalg.norm(y))


@functools.cache
def kept(kernels):
  """Returns the mask that the kernel draws: bool [B, H, T, S], T = S = 128.

  With the rows of the identity as values, the outputs are the probabilities.
  """
  B, T, H = 2, 128, 3
  v_BTHK = jnp.broadcast_to(jnp.eye(T)[None, :, None], (B, T, H, T))
  qkv = jnp.stack([jnp.zeros_like(v_BTHK), jnp.zeros_like(v_BTHK), v_BTHK])
  return np.asarray(kernel(qkv, 0.3, kernels=kernels)).transpose(0, 2, 1, 3) > 0


@pytest.mark.parametrize('kernels', [flash, flash_gpu])
def test_masks_equal_the_plain_ones(kernels):
  bits = dropout.random_bits((2, 3, 128, 128), DROP)
  causal = np.tril(np.ones((128, 128), bool))
  expected = np.asarray(bits >= np.uint32(round(0.3 * 2**32))) & causal
  np.testing.assert_array_equal(kept(kernels), expected)


def test_masks_have_the_rate_and_are_independent():
  """Bounds the z of the rate, and of each pair of heads and sequences."""
  dropped = ~kept(flash)[..., np.tril(np.ones((128, 128), bool))]
  streams = dropped.reshape(6, -1).astype(np.float64) - 0.3
  n = streams.shape[1]
  assert np.abs(streams.sum(1)).max() < 4.5 * (0.21 * n) ** 0.5
  products = streams @ streams.T / (0.21 * n**0.5)
  assert np.abs(products[np.triu_indices(6, 1)]).max() < 4.5


def test_without_a_key_nothing_is_dropped():
  qkv, _ = draw((3, 2, 128, 2, 64))
  off = kernel(qkv, 0.5, key=None)
  np.testing.assert_array_equal(off, kernel(qkv, 0.0))


@pytest.mark.parametrize('kernels', [flash, flash_gpu])
@pytest.mark.parametrize('sizes', [(2, 1, 1), (1, 2, 1), (1, 1, 2), (2, 1, 2)])
def test_every_mesh_gives_the_same_output(sizes, kernels):
  path = functools.partial(kernel, kernels=kernels)
  qkv, d_out = draw((3, 2, 128, 4, 64))
  out, d_qkv = with_gradient(path, qkv, 0.1, d_out)
  with sharding.use(make_mesh(*sizes)):
    # jit's cache key includes the mesh, so this compiles again.
    found, d_found = with_gradient(path, qkv, 0.1, d_out)
  assert found.sharding.num_devices == np.prod(sizes)
  np.testing.assert_allclose(found, out, atol=1e-6, rtol=1e-6)
  np.testing.assert_allclose(d_found, d_qkv, atol=1e-6, rtol=1e-6)


MODEL = dataclasses.replace(
  networks.GPT_CONFIG, n_embd=128, n_head=2, n_ctx=128, attention='plain'
)


def loss_and_gradient(config, params, tokens):
  def loss(params):
    h_BTD, embed_VD = gpt.GPT(config).apply(
      {'params': params}, tokens, dropout_key=KEY
    )
    return losses.lm_loss(h_BTD, embed_VD, tokens, jnp.ones(tokens.shape))

  return jax.jit(jax.value_and_grad(loss))(params)


@pytest.mark.parametrize('platform', ['cpu', 'gpu'])
@pytest.mark.parametrize('remat', ['none', 'dots', 'full'])
def test_loss_and_gradient_equal_the_plain_ones(remat, platform, monkeypatch):
  tokens = jax.random.randint(jax.random.key(1), (2, 128), 0, 101)
  params = networks.gpt_params(MODEL)
  expected, expected_d = loss_and_gradient(MODEL, params, tokens)
  config = dataclasses.replace(MODEL, attention='flash', remat=remat)
  if platform == 'gpu':
    monkeypatch.setattr(attention, 'kernels', lambda: flash_gpu)
  found, found_d = loss_and_gradient(config, params, tokens)
  assert float(found) == pytest.approx(float(expected), rel=1e-6)
  for x, y in zip(*map(jax.tree.leaves, (found_d, expected_d)), strict=True):
    assert jnp.linalg.norm(x - y) <= 1e-5 * jnp.linalg.norm(y)


def test_initial_parameters_equal_the_plain_ones():
  tokens = jnp.zeros((1, 128), jnp.int32)
  config = dataclasses.replace(MODEL, attention='flash')
  a, b = (
    nn.unbox(gpt.GPT(c).init(jax.random.key(0), tokens, dropout_key=None))
    for c in (MODEL, config)
  )
  jax.tree.map(np.testing.assert_array_equal, a, b)


@pytest.mark.parametrize(
  ('path', 'sizes', 'word'),
  [
    ('plain', (2, 512, 12, 64), 'is plain'),
    ('auto', (2, 512, 12, 64), 'the kernel is for TPUs and GPUs'),
    ('flash', (2, 64, 12, 64), '64 positions'),
    ('flash', (2, 500, 12, 64), '500 positions'),
    ('flash', (2, 2048, 12, 64), '2048 positions'),
    ('flash', (2, 512, 12, 48), 'head width 48'),
    ('flash', (2, 512, 12, 64), None),
  ],
)
def test_reasons_for_the_plain_path(path, sizes, word):
  why = attention.fallback_reason(path, *sizes)
  assert why is None if word is None else word in why


def test_gpus_run_the_kernel_on_request_only(monkeypatch):
  monkeypatch.setattr(attention, 'platform', lambda: 'gpu')
  sizes = (2, 512, 12, 64)
  assert 'attention=flash' in attention.fallback_reason('auto', *sizes)
  assert attention.fallback_reason('flash', *sizes) is None
  assert attention.fallback_reason('flash', 2, 2048, 12, 64) is None
  assert 'width 24' in attention.fallback_reason('flash', 2, 512, 12, 24)
  assert '96 positions' in attention.fallback_reason('flash', 2, 96, 12, 64)


@pytest.mark.parametrize('dtype', [jnp.float32, jnp.bfloat16])
@pytest.mark.parametrize('platform', ['cuda', 'rocm'])
def test_the_gpu_kernels_lower_without_a_gpu(platform, dtype):
  """Triton's code for both directions is in the program; no GPU runs it."""

  def both(qkv_CBTN, keys_B2, head, d_out_BTN):
    attend = functools.partial(
      flash_gpu.attend, n_head=12, rate=0.1, interpret=False
    )
    out, pull = jax.vjp(lambda x: attend(x, keys_B2, head), qkv_CBTN)
    return out, pull(d_out_BTN)

  shapes = (
    jax.ShapeDtypeStruct((3, 4, 512, 768), dtype),
    jax.ShapeDtypeStruct((4, 2), jnp.uint32),
    jax.ShapeDtypeStruct((1,), jnp.uint32),
    jax.ShapeDtypeStruct((4, 512, 768), dtype),
  )
  program = jax.jit(both).trace(*shapes).lower(lowering_platforms=(platform,))
  text = program.as_text()
  assert text.count('__gpu$xla.gpu.triton') == 2
  assert 'attention_forward' in text
  assert 'attention_backward' in text


def test_a_mesh_must_divide_batch_and_heads():
  with sharding.use(make_mesh(2, 1, 2)):
    assert 'batch of 3' in attention.fallback_reason('flash', 3, 512, 12, 64)
    assert 'heads of 3' in attention.fallback_reason('flash', 2, 512, 3, 64)
    assert attention.fallback_reason('flash', 2, 512, 12, 64) is None


def test_the_kernel_supports_all_common_sizes():
  for T in (128, 256, 512):
    for K in (32, 64, 128):
      assert flash.unsupported_reason(T, K) is None


def test_the_reason_is_logged_once(caplog):
  tokens = jnp.zeros((1, 16), jnp.int32)
  params = networks.gpt_params(networks.GPT_CONFIG)
  attention.log_fallback.cache_clear()
  with caplog.at_level('INFO', logger='absl'):
    for _ in range(2):
      gpt.GPT(networks.GPT_CONFIG).apply(
        {'params': params}, tokens, dropout_key=None
      )
  assert caplog.text.count('the kernel is for TPUs and GPUs') == 1


@pytest.mark.parametrize(
  ('path', 'dtype', 'dropout_key', 'taken'),
  [
    ('auto', 'bfloat16', None, True),
    ('auto', 'bfloat16', KEY, False),  # its dropout draws other masks
    ('auto', 'float32', None, False),
    ('plain', 'bfloat16', None, False),
  ],
)
def test_a_gpu_runs_cudnn_if_nothing_is_dropped(
  path, dtype, dropout_key, taken, monkeypatch
):
  """XLA's implementation of the same call replaces cuDNN's, as on no GPU."""
  config = dataclasses.replace(networks.GPT_CONFIG, attention=path, dtype=dtype)
  tokens = jax.random.randint(jax.random.key(1), (2, 16), 0, 101)
  params = networks.gpt_params(config)

  def states():
    out, _ = gpt.GPT(config).apply(
      {'params': params}, tokens, dropout_key=dropout_key
    )
    return out.astype(jnp.float32)

  expected, calls = states(), []
  attend = jax.nn.dot_product_attention

  def stand_in(*qkv, is_causal, implementation):
    calls.append(implementation)
    return attend(*qkv, is_causal=is_causal, implementation='xla')

  monkeypatch.setattr(attention, 'platform', lambda: 'gpu')
  monkeypatch.setattr(jax.nn, 'dot_product_attention', stand_in)
  assert error(states(), expected) <= 0.01
  assert bool(calls) == taken
  assert set(calls) <= {'cudnn'}


def test_old_tpus_take_the_plain_path(monkeypatch):
  monkeypatch.setattr(attention, 'platform', lambda: 'tpu')
  for kind, reason in (
    ('TPU v3', 'the kernel does not compile for a TPU v3'),
    ('TPU v4', None),
    ('TPU v5 lite', None),
  ):
    monkeypatch.setattr(attention, 'device_kind', lambda kind=kind: kind)
    assert attention.fallback_reason('auto', 2, 512, 12, 64) == reason
