"""The attention kernel and the paper's step, compiled for TPUs.

See aot_tpu_test on libtpu.
"""

import importlib.util
import re

import jax
import jax.numpy as jnp
import pytest

from gpt1_jax.compiler import hlo_cost, stats
from gpt1_jax.compiler.hlo_text import HloText
from gpt1_jax.model import dropout, flash
from gpt1_jax.train import chips, sharding
from tests.support import compiled_steps, meshes

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
  """Lowers the kernel and its gradient for one device."""
  B, T, H, K = shape
  devices = chips.topology(topology, 1).devices[:1]
  mesh = meshes.make_mesh(1, 1, 1, devices=devices)
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
def test_kernel_compiles(topology, shape, dtype, rate):
  """It needs no temporaries, and its stated cost is right."""
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
  assert hlo_cost.count(HloText(text)).flops == pytest.approx(flops, rel=0.01)


@pytest.mark.parametrize(
  'mesh',
  [
    {'mesh.data': 4},
    {'mesh.data': 1, 'mesh.fsdp': 4},
    {'mesh.data': 2, 'mesh.tensor': 2},
  ],
)
def test_kernel_on_a_mesh(mesh):
  """It runs forward and backward, and attention moves no heads."""
  found, _, compiled = compiled_steps.compile_for_tpu(
    'v5e:2x2', **{'model.attention': 'auto', 'model.remat': 'dots', **mesh}
  )
  text = compiled.as_text()
  assert 'attention_forward' in text
  assert 'attention_backward' in text
  assert not {'all-to-all', 'collective-permute'} & {
    c.kind for c in found.cost.collectives
  }


def test_first_tpus_take_the_plain_path():
  found, _, compiled = compiled_steps.compile_for_tpu(
    'v3:2x2', **{'model.attention': 'auto', 'model.remat': 'dots'}
  )
  assert found.fits
  assert 'attention_forward' not in compiled.as_text()


def compile_paper(batch_size):
  """Compiles the paper's recipe in bfloat16 for four chips of v5e."""
  changes = {'model.dtype': 'bfloat16', 'data.batch_size': batch_size}
  config = compiled_steps.preset('paper', **changes)
  return stats.compile_step(config, chips.topology('v5e:2x2', 1), 40_478, 1000)


def test_step_of_the_paper_meets_the_goals():
  found, program, compiled = compile_paper(64)
  assert found.memory.temp <= 3e9
  assert found.cost.flops <= 1.0 * found.model_flops
  assert found.cost.bytes_accessed <= 40e9
  assert found.cost.hbm_bytes <= 25e9
  # Outside attention no product is computed twice, to the last FLOP.
  c = program.objective.model.config
  attention = 12 * c.n_layer * c.n_ctx * c.n_embd * 16 * c.n_ctx
  products = compiled_steps.product_flops(compiled)
  assert products == found.model_flops - attention


def test_64_sequences_a_chip_fit():
  assert compile_paper(4 * 64)[0].fits
