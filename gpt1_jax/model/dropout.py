"""Applies dropout whose masks depend only on the position of an element.

A mask bit is a hash of (key of the update, site, row of the global batch,
element within the row): a few integer operations that the compiler fuses into
the surrounding arithmetic. So neither the mesh, nor the number of microbatches,
nor rematerialisation changes a mask.
"""

import math
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

# Places of dropout within a layer; `site_id` adds the layer's number.
EMBEDDING, ATTENTION, RESIDUAL_ATTENTION, RESIDUAL_MLP, HEAD = range(5)
LSTM_OUTPUT = 5
_SITES_PER_LAYER = 8
_FACTOR = 0x9E3779B1


class Dropout(NamedTuple):
  """Dropout at one site of one update.

  Attributes:
    rate: in [0, 1), rounded to a multiple of 2**-32.
    key: uint32 [2], the dropout key of the update; None switches dropout off.
    site: uint32, from `site_id`.
    example_ids_B: uint32 [B], index of each row in the global batch.
  """

  rate: float
  key: jax.Array | None
  site: jax.Array
  example_ids_B: jax.Array


def site_id(layer: jax.Array | int, site: int) -> jax.Array:
  """Returns one uint32 for each (layer, site)."""
  return jnp.uint32(layer) * _SITES_PER_LAYER + jnp.uint32(site)


def apply(x: jax.Array, drop: Dropout) -> jax.Array:
  """Zeroes each element of `x` with probability `drop.rate`; scales the rest.

  Args:
    x: float [B, ...], fewer than 2**32 elements a row.
    drop: the scale is 1 / (1 - rate), with the rounded rate.

  Returns:
    An array like x.
  """
  if drop.key is None or drop.rate == 0.0:
    return x
  return masked(x, random_bits(x.shape, drop), drop.rate)


def masked(x: jax.Array, bits: jax.Array, rate: float) -> jax.Array:
  """Zeroes the elements with low `bits` (uint32, shaped as x); scales the rest.

  Scales in float32, as bfloat16 would round 1 / 0.9 to a value 0.2% too low.
  """
  threshold, scale = threshold_and_scale(rate)
  # A product and not jnp.where: JAX would create the zeros of a where before
  # the loop over layers and keep an array of them.
  kept = (bits >= jnp.uint32(threshold)).astype(jnp.float32)
  return (x.astype(jnp.float32) * jnp.float32(scale) * kept).astype(x.dtype)


def random_bits(shape: tuple[int, ...], drop: Dropout) -> jax.Array:
  """Returns uint32 random bits of `shape` [B, ...]; the high bits are best."""
  low_B, high_B = row_keys(drop)
  row = shape[1:]
  return part_bits(shape, (0,) * len(row), row, low_B, high_B)


def part_bits(
  shape: tuple[int, ...],
  starts: tuple[int, ...],
  row: tuple[int, ...],
  low_B: jax.Array,
  high_B: jax.Array,
) -> jax.Array:
  """Returns the `random_bits` of a part of each row.

  Args:
    shape: of the part, [B, ...].
    starts: index of the part's first element, along each axis but the first.
    row: shape of a whole row.
    low_B, high_B: from `row_keys`.
  """
  per_row = (-1,) + (1,) * len(row)
  low, high = low_B.reshape(per_row), high_B.reshape(per_row)
  # element * _FACTOR + low, summed axis by axis. `high` cancels: it makes every
  # term depend on the layer, or JAX would compute the sums of the axes once,
  # before the loop over layers, and keep them.
  x = low - high * np.uint32(len(row))
  for axis, start in enumerate(starts):
    stride = math.prod(row[axis + 1 :]) * _FACTOR % 2**32
    index = jnp.arange(shape[axis + 1], dtype=jnp.uint32) + np.uint32(start)
    along = [1] * len(shape)
    along[axis + 1] = -1
    x += (index * np.uint32(stride)).reshape(along) + high
  return _mix_with_key(x, high)


def row_keys(drop: Dropout) -> tuple[jax.Array, jax.Array]:
  """Returns the two keys of each row, uint32 [B], for `element_bits`."""
  assert drop.key is not None
  stream = _mix(
    drop.key[0] + _mix(drop.site * jnp.uint32(0x9E3779B9) + drop.key[1])
  )
  low_B = _mix(drop.example_ids_B.astype(jnp.uint32) ^ stream)
  high_B = _mix(low_B + _mix(stream ^ drop.key[1]))
  return low_B, high_B


def element_bits(
  element: jax.Array, low: jax.Array, high: jax.Array
) -> jax.Array:
  """Returns the `random_bits` of single elements, for attention kernels.

  Args:
    element: uint32, index into the flattened row.
    low, high: keys of the row, from `row_keys`.
  """
  return _mix_with_key(element * jnp.uint32(_FACTOR) + low, high)


def threshold_and_scale(rate: float) -> tuple[int, float]:
  """Returns the uint32 threshold for dropping, and the scale of the rest."""
  threshold = round(rate * 2**32)
  return threshold, 1.0 / (1.0 - threshold / 2**32)


def _mix_with_key(x: jax.Array, high: jax.Array) -> jax.Array:
  """Hashes element * _FACTOR + low with the second key of the row.

  The second key enters between the multiplications, so that no two rows walk
  the same sequence at different offsets.
  """
  x ^= x >> 16
  x = x * jnp.uint32(0x7FEB352D) + high
  x ^= x >> 15
  return x * jnp.uint32(0x846CA68B)


def _mix(x: jax.Array) -> jax.Array:
  """Hashes 32 bits: every input bit reaches every output bit."""
  x ^= x >> 16
  x *= jnp.uint32(0x7FEB352D)
  x ^= x >> 15
  x *= jnp.uint32(0x846CA68B)
  return x ^ (x >> 16)
