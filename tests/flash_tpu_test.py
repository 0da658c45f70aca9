"""The kernel and the step of the paper as a TPU's compiler has them.

libtpu lets one process of a machine compile at a time; see aot_tpu_test.
"""

import importlib.util
import re

import jax
import jax.numpy as jnp
import pytest

from configs import pretrain as config_file
from gpt1_jax.compiler import compiled, hlo, hlo_cost
from gpt1_jax.model import dropout, flash
from gpt1_jax.train import chips, sharding
from tests import aot_tpu_test, compiled_test

pytestmark = [
  pytest.mark.tpu,
  pytest.mark.slow,
  pytest.mark.skipif(
    importlib.util.find_spec('libtpu') is None,
    reason="needs libtpu: pip install -e '.[test,tpu]'",
  ),
]
SITE = dropout.site_id(0, dropout.ATTENTION)


def lower(topology, shape, dtype, rate):
  """The kernel and its gradient for one device."""
  B, T, H, K = shape
  mesh = sharding.make_mesh(
    chips.topology(topology, 1).devices[:1], data=1, fsdp=1, tensor=1
  )
  place = sharding.replicated(mesh)

  def both(qkv_CBTN, keys_B2, d_out_BTN):
    def attend(qkv_CBTN):
      return flash.attend(
        qkv_CBTN,
        keys_B2,
        jnp.zeros(1, jnp.uint32),
        n_head=H,
        rate=rate,
        interpret=False,
      )

    out_BTN, pull = jax.vjp(attend, qkv_CBTN)
    return out_BTN, pull(d_out_BTN)

  return jax.jit(both).lower(
    *(
      jax.ShapeDtypeStruct(shape, dtype, sharding=place)
      for shape, dtype in (
        ((3, B, T, H * K), dtype),
        ((B, 2), jnp.uint32),
        ((B, T, H * K), dtype),
      )
    )
  )


@pytest.mark.parametrize(
  ('topology', 'shape', 'dtype', 'rate'),
  [
    *(
      (topology, (4, 512, 12, 64), jnp.bfloat16, 0.1)
      for topology in ('v4:2x2x1', 'v5e:2x2', 'v5p:2x2x1', 'v6e:2x2')
    ),
    ('v5e:2x2', (4, 512, 12, 64), jnp.float32, 0.1),
    ('v5e:2x2', (4, 512, 3, 64), jnp.bfloat16, 0.1),  # heads over tensor = 4
    ('v5e:2x2', (4, 128, 4, 32), jnp.bfloat16, 0.0),
    ('v5e:2x2', (4, 1024, 2, 128), jnp.bfloat16, 0.1),
  ],
)
def test_the_kernel_compiles(topology, shape, dtype, rate):
  """It needs nothing beside what it reads and writes, and says what it does."""
  built = lower(topology, shape, dtype, rate).compile()
  assert built.memory_analysis().temp_size_in_bytes <= 2**20
  text = built.as_text()
  flops, moved = (
    sum(map(int, re.findall(rf'"?{name}"?:"?(\d+)', text)))
    for name in ('flops', 'bytes_accessed')
  )
  B, T, H, K = shape
  pairs = B * H * T * (T + flash.QUERIES) // 2  # of queries and keys
  assert pairs * 14 * K < flops < pairs * (14 * K + 100)
  assert moved == 11 * B * T * H * K * jnp.dtype(dtype).itemsize
  assert hlo_cost.of(hlo.Program(text)).flops == pytest.approx(flops, rel=0.01)


@pytest.mark.parametrize(
  'mesh',
  [
    {'mesh.data': 4},
    {'mesh.data': 1, 'mesh.fsdp': 4},
    {'mesh.data': 2, 'mesh.tensor': 2},
  ],
)
def test_meshes(mesh):
  """The kernel runs forward and backward, and attention moves no heads."""
  figures, (_, built) = aot_tpu_test.compile_for(
    'v5e:2x2', **{'model.attention': 'auto', 'model.remat': 'dots', **mesh}
  )
  assert figures.fits
  text = built.as_text()
  assert 'attention_forward' in text
  assert 'attention_backward' in text
  assert not {'all-to-all', 'collective-permute'} & {
    c['kind'] for c in figures.collectives
  }


def test_the_first_tpus_take_the_plain_path():
  figures, (_, built) = aot_tpu_test.compile_for(
    'v3:2x2', **{'model.attention': 'auto', 'model.remat': 'dots'}
  )
  assert figures.fits
  assert 'attention_forward' not in built.as_text()


def paper(batch):
  """The recipe of the paper in bfloat16 on four chips of v5e."""
  config = config_file.get_config('paper')
  config.update_from_flattened_dict(
    {
      'model.dtype': 'bfloat16',
      'data.path': '',
      'data.batch_size': batch,
    }
  )
  return compiled.compile_config(
    config.to_dict(), chips.topology('v5e:2x2', 1), 40_478, 1000
  )


def test_the_step_of_the_paper():
  """Memory, FLOPs and bytes are within what was set as goals."""
  figures, (program, built) = paper(64)
  assert figures.hbm_temp_bytes <= 3e9
  assert figures.flops <= 1.06 * figures.model_flops
  assert figures.bytes_accessed <= 40e9
  assert figures.hbm_bytes <= 25e9
  # Outside attention no product is taken twice: to the last FLOP.
  c = program.model.config
  attention = 12 * c.n_layer * c.n_ctx * c.n_embd * 16 * c.n_ctx
  text = hlo.Program(built.as_text())
  assert compiled_test.products(text) == figures.model_flops - attention


def test_64_sequences_a_chip_fit():
  figures, _ = paper(4 * 64)
  assert figures.fits
