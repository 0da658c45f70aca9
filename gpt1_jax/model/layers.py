"""Alike layers one after another on a CPU: a loop, and one back of our own.

What `jax.lax.scan` would do by itself, but for memory on XLA's CPU backend. The
gradients of the parameters come to be when the loss is known, and not before
the first layer; and deep stacks take two loops each way, so that what was kept
for the later layers is free again when the gradients of the earlier ones need
room. (A TPU's compiler puts off the first by itself, and would need more for
the second: it joins the gradients of the two loops in a third place.)
"""

import functools
from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
from flax import struct

# Layers from which on two loops are worth compiling twice as much; and the
# share of the first, where what is kept of a layer is a bit larger than its
# gradients: the first loop's layers kept and all gradients then take as much
# as all layers kept and the second loop's gradients.
TWO_LOOPS_FROM = 8
FIRST_LOOP = 7 / 12

# (params, h, layer, rest) → h, of one layer: `params` its slice of the stack,
# `layer` its uint32 number, `rest` arrays that have no gradient, or None.
Layer = Callable[[Any, jax.Array, jax.Array, Any], jax.Array]


@functools.partial(jax.custom_vjp, nondiff_argnums=(0, 1))
def apply(
  layer_fn: Layer, unroll: int, stack: Any, h: jax.Array, rest: Any
) -> jax.Array:
  """`h` after all layers.

  Args:
    layer_fn: a layer; `jax.checkpoint` of it says what is kept of each.
    unroll: layers that one iteration of a loop holds.
    stack: parameters, each with a leading axis for the layers.
    h: what goes in; every layer returns the same shape and type.
    rest: what all layers are called with.
  """

  def one(h, layer):
    return layer_fn(_at(stack, layer), h, layer, rest), None

  for layers in _loops(stack):
    h, _ = jax.lax.scan(one, h, layers, unroll=unroll)
  return h


def _forward(layer_fn, unroll, stack, h, rest):
  def one(h, layer):
    params = _at(stack, layer)
    h, pull_back = jax.vjp(lambda p, h: layer_fn(p, h, layer, rest), params, h)
    return h, _Kept.of(pull_back, params)

  kept = []
  for layers in _loops(stack):
    h, of_these = jax.lax.scan(one, h, layers, unroll=unroll)
    kept.append(of_these)
  return h, (stack, kept)


def _backward(layer_fn, unroll, residuals, d_h):
  del layer_fn
  stack, kept = residuals

  def one(carry, layer_and_kept):
    (d_h, d_stack, at), (layer, kept) = carry, layer_and_kept
    d_params, d_h = kept.pull_back(_at(stack, layer))(d_h)
    d_stack = jax.tree.map(
      lambda x, update: jax.lax.dynamic_update_index_in_dim(x, update, at, 0),
      d_stack,
      d_params,
    )
    return (d_h, d_stack, at - 1), None

  parts = []
  for layers, of_these in reversed(list(zip(_loops(stack), kept, strict=True))):
    zero = jnp.float32(0)
    # On several devices one element would have to go to all of them.
    if jax.sharding.get_abstract_mesh().size <= 1:
      # Not a constant: XLA's CPU backend makes those before anything else.
      zero *= d_h.ravel()[0].astype(jnp.float32)
    room = _stack_of(len(layers), stack, zero)
    (d_h, d_stack, _), _ = jax.lax.scan(
      one,
      (d_h, room, len(layers) - 1),
      (layers, of_these),
      reverse=True,
      unroll=unroll,
    )
    parts.insert(0, d_stack)
  d_stack = jax.tree.map(lambda *x: jnp.concatenate(x), *parts)
  return d_stack, d_h, None


apply.defvjp(_forward, _backward)


class _Kept(struct.PyTreeNode):
  """What a function from `jax.vjp` holds, without the parameters.

  Attributes:
    arrays: bfloat16 as its bits, for XLA's CPU backend makes a float32 copy of
      a whole stack in bfloat16 to read a slice.
    tree: of the function.
    places: of its leaves, which of the parameters each is; None: an array.
  """

  arrays: list[jax.Array]
  tree: Any = struct.field(pytree_node=False)
  places: tuple[int | None, ...] = struct.field(pytree_node=False)

  @classmethod
  def of(cls, pull_back, params):
    leaves, tree = jax.tree.flatten(pull_back)
    place = {id(x): i for i, x in enumerate(jax.tree.leaves(params))}
    places = tuple(place.get(id(x)) for x in leaves)
    arrays = [x for x, i in zip(leaves, places, strict=True) if i is None]
    return cls([_bits(x) for x in arrays], tree, places)

  def pull_back(self, params):
    params, arrays = jax.tree.leaves(params), iter(self.arrays)
    return jax.tree.unflatten(
      self.tree,
      [_of_bits(next(arrays)) if i is None else params[i] for i in self.places],
    )


def _bits(x):
  if x.dtype != jnp.bfloat16:
    return x
  return jax.lax.bitcast_convert_type(x, jnp.uint16)


def _of_bits(x):
  if x.dtype != jnp.uint16:
    return x
  return jax.lax.bitcast_convert_type(x, jnp.bfloat16)


def _at(stack, layer):
  return jax.tree.map(
    lambda x: jax.lax.dynamic_index_in_dim(x, layer, keepdims=False), stack
  )


def _stack_of(length, stack, value):
  return jax.tree.map(
    lambda x: jnp.full((length, *x.shape[1:]), value, x.dtype), stack
  )


def _loops(stack):
  """The numbers of the layers, uint32, of each loop."""
  length = len(jax.tree.leaves(stack)[0])
  ends = [length]
  if length >= TWO_LOOPS_FROM:
    ends = [round(FIRST_LOOP * length), length]
  starts = [0, *ends]
  return [
    jnp.arange(start, end, dtype=jnp.uint32)
    for start, end in zip(starts, ends, strict=False)
  ]
