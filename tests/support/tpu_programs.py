"""Compiles steps and the attention kernel for TPUs, without a TPU."""

import jax
import jax.numpy as jnp

from gpt1_jax.compiler import stats
from gpt1_jax.model import flash, tiles
from gpt1_jax.train import chips, sharding
from tests.support import compiled_steps, meshes
from tests.support.compiled_steps import VOCAB, small

# In bfloat16, with widths that fill a TPU's matrix unit. Attention is plain and
# nothing is recomputed, so that every product can be counted.
SHAPE = {
  'model.n_layer': 3,
  'model.n_embd': 256,
  'model.n_head': 4,
  'model.n_ctx': 128,
  'model.dtype': 'bfloat16',
  'model.attention': 'plain',
}


def compile_for(topology, slices=1, **changes):
  """Compiles a step of SHAPE; returns what `stats.compile_step` does."""
  settings = small(**{**SHAPE, **changes})
  return stats.compile_step(
    settings, chips.topology(topology, slices), VOCAB, 10
  )


def lower_kernel(topology, shape, dtype, rate):
  """Lowers the kernel and its gradient for one device."""
  B, T, H, K = shape
  devices = chips.topology(topology, 1).devices[:1]
  place = sharding.replicated(meshes.make_mesh(1, 1, 1, devices=devices))
  static = tiles.Static(H, rate, interpret=False)

  def both(qkv_CBTN, keys_B2, d_out_BTN):
    heads = jnp.zeros(1, jnp.uint32)
    out_BTN, pull = jax.vjp(
      lambda qkv: flash.attend(static, qkv, keys_B2, heads), qkv_CBTN
    )
    return out_BTN, pull(d_out_BTN)

  def argument(shape, dtype):
    return jax.ShapeDtypeStruct(shape, dtype, sharding=place)

  return jax.jit(both).lower(
    argument((3, B, T, H * K), dtype),
    argument((B, 2), jnp.uint32),
    argument((B, T, H * K), dtype),
  )


def compile_paper(**changes):
  """Compiles the paper's recipe in bfloat16 for four chips of v5e."""
  changes = {'model.dtype': 'bfloat16', **changes}
  config = compiled_steps.preset('paper', **changes)
  return stats.compile_step(config, chips.topology('v5e:2x2', 1), 40_478, 1000)
