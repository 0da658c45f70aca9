"""Tests which path attention takes on each platform, and for what reason."""

import dataclasses
import functools
import sys

import jax
import jax.numpy as jnp
import pytest
from jax.experimental import pallas

from gpt1_jax.model import attention, flash_gpu, gpt, tiles
from gpt1_jax.train import sharding
from tests.support import networks
from tests.support.meshes import make_mesh

KEY = networks.DROPOUT_KEY


@pytest.mark.parametrize(
  ('path', 'sizes', 'word'),
  [
    ('plain', (2, 512, 12, 64), 'is plain'),
    ('auto', (2, 512, 12, 64), 'the kernel is for TPUs and GPUs'),
    ('flash', (2, 64, 12, 64), '64 positions'),
    ('flash', (2, 500, 12, 64), '500 positions'),
    ('flash', (2, 2048, 12, 64), '2048 positions'),
    ('flash', (2, 512, 12, 48), 'head width 48'),
    *(
      ('flash', (2, T, 12, K), None)
      for T in (128, 256, 512)
      for K in (32, 64, 128)
    ),
  ],
)
def test_reasons_for_the_plain_path(path, sizes, word):
  why = attention.fallback_reason(path, *sizes)
  assert why is None if word is None else word in why


def test_gpus_run_the_kernel_on_request_only(monkeypatch):
  monkeypatch.setattr(attention, 'platform', lambda: 'gpu')
  for path, T, K, word in (
    ('auto', 512, 64, 'attention=flash'),
    ('flash', 512, 64, None),
    ('flash', 2048, 64, None),
    ('flash', 512, 24, 'width 24'),
    ('flash', 96, 64, '96 positions'),
  ):
    why = attention.fallback_reason(path, 2, T, 12, K)
    assert why is None if word is None else word in why


def test_a_jax_without_triton_takes_the_plain_path(monkeypatch):
  monkeypatch.setattr(attention, 'platform', lambda: 'gpu')
  monkeypatch.delitem(sys.modules, 'gpt1_jax.model.flash_gpu', raising=False)
  monkeypatch.setitem(sys.modules, 'jax.experimental.pallas.triton', None)
  monkeypatch.delattr(pallas, 'triton', raising=False)
  why = attention.fallback_reason('flash', 2, 512, 12, 64)
  assert 'this version of jax lacks' in why


# jax 0.12 warns of each.
@pytest.mark.filterwarnings(
  'ignore:The Pallas Triton backend:DeprecationWarning'
)
@pytest.mark.parametrize('dtype', [jnp.float32, jnp.bfloat16])
@pytest.mark.parametrize(
  ('platform', 'kind'),
  [('cuda', 'NVIDIA H100 80GB HBM3'), ('rocm', 'gfx942')],
)
def test_the_gpu_kernels_lower_without_a_gpu(platform, kind, dtype):
  """Expects Triton's code for both directions; no GPU runs it."""

  def both(qkv_CBTN, keys_B2, head, d_out_BTN):
    static = tiles.Static(n_head=12, rate=0.1, interpret=False)
    attend = functools.partial(flash_gpu.attend, static)
    out, pull = jax.vjp(lambda x: attend(x, keys_B2, head), qkv_CBTN)
    return out, pull(d_out_BTN)

  shapes = (
    jax.ShapeDtypeStruct((3, 4, 512, 768), dtype),
    jax.ShapeDtypeStruct((4, 2), jnp.uint32),
    jax.ShapeDtypeStruct((1,), jnp.uint32),
    jax.ShapeDtypeStruct((4, 512, 768), dtype),
  )
  device = jax.sharding.AbstractDevice(kind, num_cores=None, platform=platform)
  mesh = jax.sharding.AbstractMesh((), (), abstract_device=device)
  with jax.sharding.use_abstract_mesh(mesh):  # jax 0.12 asks for the device
    traced = jax.jit(both).trace(*shapes)
    text = traced.lower(lowering_platforms=(platform,)).as_text()
  assert text.count('__gpu$xla.gpu.triton') == 2
  assert 'attention_forward' in text
  assert 'attention_backward' in text


def test_a_mesh_must_divide_batch_and_heads():
  with sharding.use(make_mesh(2, 1, 2)):
    assert 'batch of 3' in attention.fallback_reason('flash', 3, 512, 12, 64)
    assert 'heads of 3' in attention.fallback_reason('flash', 2, 512, 3, 64)
    assert attention.fallback_reason('flash', 2, 512, 12, 64) is None


def small_states(config, dropout_key=None):
  tokens = jax.random.randint(jax.random.key(1), (2, 16), 0, 101)
  variables = {'params': networks.gpt_params(networks.GPT_CONFIG)}
  out, _ = gpt.GPT(config).apply(variables, tokens, dropout_key=dropout_key)
  return out.astype(jnp.float32)


def test_the_reason_is_logged_once(caplog):
  attention.log_fallback.cache_clear()
  with caplog.at_level('INFO', logger='absl'):
    small_states(networks.GPT_CONFIG)
    small_states(networks.GPT_CONFIG)
  assert caplog.text.count('the kernel is for TPUs and GPUs') == 1


@pytest.mark.parametrize(
  ('path', 'dtype', 'key', 'taken'),
  [
    ('auto', 'bfloat16', None, True),
    ('auto', 'bfloat16', KEY, False),  # its dropout draws other masks
    ('auto', 'float32', None, False),
    ('plain', 'bfloat16', None, False),
  ],
)
def test_a_gpu_runs_cudnn_if_nothing_is_dropped(
  path, dtype, key, taken, monkeypatch
):
  """Replaces cuDNN by XLA's implementation, which needs no GPU."""
  config = dataclasses.replace(networks.GPT_CONFIG, attention=path, dtype=dtype)
  expected, calls = small_states(config, key), []
  attend = jax.nn.dot_product_attention

  def stand_in(*qkv, is_causal, implementation):
    calls.append(implementation)
    return attend(*qkv, is_causal=is_causal, implementation='xla')

  monkeypatch.setattr(attention, 'platform', lambda: 'gpu')
  monkeypatch.setattr(jax.nn, 'dot_product_attention', stand_in)
  difference = small_states(config, key) - expected
  assert jnp.linalg.norm(difference) <= 0.01 * jnp.linalg.norm(expected)
  assert bool(calls) == taken
  assert set(calls) <= {'cudnn'}


@pytest.mark.parametrize(
  ('kind', 'reason'),
  [
    ('TPU v3', 'the kernel does not compile for a TPU v3'),
    ('TPU v4', None),
    ('TPU v5 lite', None),
  ],
)
def test_old_tpus_take_the_plain_path(monkeypatch, kind, reason):
  monkeypatch.setattr(attention, 'platform', lambda: 'tpu')
  monkeypatch.setattr(attention, 'device_kind', lambda: kind)
  assert attention.fallback_reason('auto', 2, 512, 12, 64) == reason
