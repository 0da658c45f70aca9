"""Implements what the attention kernels share: products, mask and dropout.

A tile holds the scores of Q queries and S keys of one head. The functions run
inside Pallas kernels, on TPUs and on GPUs.
"""

from typing import Any, NamedTuple

import jax
import jax.numpy as jnp

from gpt1_jax.model import dropout

Ref = Any  # a kernel's view of an array in the device's memory


class Static(NamedTuple):
  """Constants that a kernel is compiled for.

  Attributes:
    n_head: heads, side by side in the columns of the arrays.
    rate: dropout rate of the probabilities; 0 switches it off.
    interpret: runs the kernel as plain operations, on any platform.
  """

  n_head: int
  rate: float
  interpret: bool


def product(x: jax.Array, y: jax.Array, x_axis: int, y_axis: int) -> jax.Array:
  """Multiplies two matrices along the given axes, in float32."""
  return jax.lax.dot_general(
    x,
    y,
    (((x_axis,), (y_axis,)), ((), ())),
    preferred_element_type=jnp.float32,
  )


def positions(
  shape: tuple[int, int], first: tuple[Any, Any]
) -> tuple[jax.Array, jax.Array]:
  """Returns the positions of each score's query and key.

  Args:
    shape: of the tile, (Q, S).
    first: positions of the first query and of the first key.

  Returns:
    Two int32 arrays [Q, S].
  """
  query, key = (
    jax.lax.broadcasted_iota(jnp.int32, shape, axis) + start
    for axis, start in enumerate(first)
  )
  return query, key


def element(
  head: jax.Array, T: int, query_QS: jax.Array, key_QS: jax.Array
) -> jax.Array:
  """Returns each score's index in the flattened [H, T, T] of its sequence.

  Args:
    head: uint32, the number of the head in the model.
    T: positions of a sequence.
    query_QS, key_QS: from `positions`.
  """
  row_QS = query_QS.astype(jnp.uint32) * jnp.uint32(T)
  return head * jnp.uint32(T * T) + row_QS + key_QS.astype(jnp.uint32)


def dropout_factors(
  element_QS: jax.Array, low: jax.Array, high: jax.Array, rate: float
) -> jax.Array:
  """Returns 0 for each dropped score and 1 / (1 - rate) for the others.

  Args:
    element_QS: from `element`.
    low, high: the two keys of the sequence, from `dropout.row_keys`.
    rate: dropout rate, not 0.
  """
  threshold, scale = dropout.threshold_and_scale(rate)
  bits_QS = dropout.element_bits(element_QS, low, high)
  return jnp.where(bits_QS >= jnp.uint32(threshold), jnp.float32(scale), 0.0)
