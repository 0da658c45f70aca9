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
_FACTOR = 0x9E3779B1


def site_id(layer: jax.Array | int, site: int) -> jax.Array:
  """uint32: one number for each (layer, site)."""
  return jnp.uint32(layer) * _SITES_PER_LAYER + jnp.uint32(site)


def dropout(
  x: jax.Array,
  rate: float,
  dropout_key: jax.Array | None,
  site: jax.Array,
  example_ids_B: jax.Array,
) -> jax.Array:
  """Zeroes elements of `x` with probability `rate`, scales the rest up.

  Args:
    x: float [B, ...], fewer than 2**32 elements a row.
    rate: in [0, 1), quantised to a multiple of 2**-32; the scale is exact for
      the quantised rate.
    dropout_key: uint32 [2], the seed of this update; None switches dropout off.
    site: uint32, from `site_id`.
    example_ids_B: uint32 [B], row of the global batch of each row of x.

  Returns:
    Like x.

  """
  if dropout_key is None or rate == 0.0:
    return x
  return masked(x, keep_bits(x.shape, dropout_key, site, example_ids_B), rate)


def masked(x: jax.Array, bits: jax.Array, rate: float) -> jax.Array:
  """Zeroes what has low `bits`, uint32 like x, and scales the rest up."""
  threshold, scale = threshold_and_scale(rate)
  # Scaled in float32: bfloat16 has no 1 / 0.9, its nearest is 0.2% below.
  # Multiplied, not selected: JAX would make the zeros before a loop and keep
  # an array of them.
  kept = (bits >= jnp.uint32(threshold)).astype(jnp.float32)
  return (x.astype(jnp.float32) * jnp.float32(scale) * kept).astype(x.dtype)


def keep_bits(
  shape: tuple[int, ...],
  dropout_key: jax.Array,
  site: jax.Array,
  example_ids_B: jax.Array,
) -> jax.Array:
  """uint32 random bits of `shape` ([B, ...]), good in their high bits."""
  low_B, high_B = row_keys(dropout_key, site, example_ids_B)
  row = shape[1:]
  return part_bits(shape, (0,) * len(row), row, low_B, high_B)


def part_bits(
  shape: tuple[int, ...],
  starts: tuple[int, ...],
  row: tuple[int, ...],
  low_B: jax.Array,
  high_B: jax.Array,
) -> jax.Array:
  """`keep_bits` of a part of each row.

  Args:
    shape: of the part, [B, ...].
    starts: where it begins in the row, along each axis but the first.
    row: the shape of a whole row.
    low_B, high_B: from `row_keys`.
  """
  per_row = (-1,) + (1,) * len(row)
  low, high = low_B.reshape(per_row), high_B.reshape(per_row)
  # element * _FACTOR + low, axis by axis. What is the same for all layers JAX
  # would make before the loop over them, and keep: so each axis brings a key
  # that is taken away again.
  x = low - high * np.uint32(len(row))
  for axis, start in enumerate(starts):
    stride = math.prod(row[axis + 1 :]) * _FACTOR % 2**32
    places = jnp.arange(shape[axis + 1], dtype=jnp.uint32) + np.uint32(start)
    along = [1] * len(shape)
    along[axis + 1] = -1
    x += (places * np.uint32(stride)).reshape(along) + high
  return _finish(x, high)


def row_keys(
  dropout_key: jax.Array, site: jax.Array, example_ids_B: jax.Array
) -> tuple[jax.Array, jax.Array]:
  """uint32 [B] twice: the two keys of each row, for `element_bits`."""
  stream = _mix(
    dropout_key[0] + _mix(site * jnp.uint32(0x9E3779B9) + dropout_key[1])
  )
  low_B = _mix(example_ids_B.astype(jnp.uint32) ^ stream)
  high_B = _mix(low_B + _mix(stream ^ dropout_key[1]))
  return low_B, high_B


def element_bits(
  element: jax.Array, low: jax.Array, high: jax.Array
) -> jax.Array:
  """uint32 random bits of elements of a row, good in their high bits.

  For the kernel of `flash`; they are those of `keep_bits`.

  Args:
    element: uint32, where it stands in its row, laid flat.
    low, high: the keys of its row.
  """
  return _finish(element * jnp.uint32(_FACTOR) + low, high)


def _finish(x, high):
  """Mixes element * _FACTOR + low with the other key of the row.

  One key before and one inside the mixing: so two rows never walk the same
  sequence at different offsets.
  """
  x ^= x >> 16
  x = x * jnp.uint32(0x7FEB352D) + high
  x ^= x >> 15
  return x * jnp.uint32(0x846CA68B)


def threshold_and_scale(rate: float) -> tuple[int, float]:
  """Bits below the threshold are dropped, what is left times the scale.

  The rate becomes a multiple of 2**-32, the scale is exact for that one.
  """
  threshold = round(rate * 2**32)
  return threshold, 1.0 / (1.0 - threshold / 2**32)


def _mix(x: jax.Array) -> jax.Array:
  """A 32-bit finaliser: every input bit reaches every output bit."""
  x ^= x >> 16
  x *= jnp.uint32(0x7FEB352D)
  x ^= x >> 15
  x *= jnp.uint32(0x846CA68B)
  return x ^ (x >> 16)
