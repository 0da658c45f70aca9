"""Dropout whose masks are a function of where an element stands.

A mask bit is a hash of (seed of the step, site, row of the global batch,
element within the row): a few integer operations that the compiler fuses into
the surrounding arithmetic. The same bit comes out whatever the mesh, the
number of microbatches or the recomputation policy, because none of them
changes where an element stands.
"""

import math

import jax
import jax.numpy as jnp
import numpy as np

# Sites within a layer; `site_id` makes them unique across layers.
EMBEDDING, ATTENTION, RESIDUAL_ATTENTION, RESIDUAL_MLP, HEAD = range(5)
LSTM_OUTPUT = 5
_SITES_PER_LAYER = 8


def site_id(layer: jax.Array | int, site: int) -> jax.Array:
  """uint32: one number for each (layer, site)."""
  return jnp.uint32(layer) * _SITES_PER_LAYER + jnp.uint32(site)


def dropout(
  x: jax.Array,
  rate: float,
  seed_2: jax.Array | None,
  site: jax.Array,
  rows_B: jax.Array,
) -> jax.Array:
  """Zeroes elements of `x` with probability `rate`, scales the rest up.

  Args:
    x: float [B, ...], fewer than 2**32 elements a row.
    rate: in [0, 1), quantised to a multiple of 2**-32; the scale is exact for
      the quantised rate.
    seed_2: uint32 [2], the seed of this update; None switches dropout off.
    site: uint32, from `site_id`.
    rows_B: uint32 [B], the row of the global batch that each row of x is.

  Returns:
    Like x.

  """
  if seed_2 is None or rate == 0.0:
    return x
  threshold = round(rate * 2**32)
  scale = 1.0 / (1.0 - threshold / 2**32)
  keep = keep_bits(x.shape, seed_2, site, rows_B) >= jnp.uint32(threshold)
  # Scaled in float32: bfloat16 has no 1 / 0.9, its nearest is 0.2% below.
  scaled = x.astype(jnp.float32) * jnp.float32(scale)
  return jnp.where(keep, scaled, 0).astype(x.dtype)


def keep_bits(
  shape: tuple[int, ...],
  seed_2: jax.Array,
  site: jax.Array,
  rows_B: jax.Array,
) -> jax.Array:
  """uint32 random bits of `shape` ([B, ...]), good in their high bits."""
  per_row = (-1,) + (1,) * (len(shape) - 1)
  stream = _mix(seed_2[0] + _mix(site * jnp.uint32(0x9E3779B9) + seed_2[1]))
  low_B = _mix(rows_B.astype(jnp.uint32) ^ stream)
  high_B = _mix(low_B + _mix(stream ^ seed_2[1]))
  element = jnp.zeros((1, *shape[1:]), jnp.uint32)
  for axis in range(1, len(shape)):
    stride = np.uint32(math.prod(shape[axis + 1 :]))
    element += (
      jax.lax.broadcasted_iota(jnp.uint32, element.shape, axis) * stride
    )
  # Both keys of the row enter, one before and one inside the mixing, so that
  # two rows never walk the same sequence at different offsets.
  x = element * jnp.uint32(0x9E3779B1) + low_B.reshape(per_row)
  x ^= x >> 16
  x = x * jnp.uint32(0x7FEB352D) + high_B.reshape(per_row)
  x ^= x >> 15
  return x * jnp.uint32(0x846CA68B)


def _mix(x: jax.Array) -> jax.Array:
  """A 32-bit finaliser: every input bit reaches every output bit."""
  x ^= x >> 16
  x *= jnp.uint32(0x7FEB352D)
  x ^= x >> 15
  x *= jnp.uint32(0x846CA68B)
  return x ^ (x >> 16)
