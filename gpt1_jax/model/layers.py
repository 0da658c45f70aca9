"""Loops over identical layers with a backward pass that saves memory on CPUs.

The result equals that of `jax.lax.scan` over the layers, but XLA's CPU backend
needs less memory. The gradients of the parameters are allocated after the
forward pass, not before it. Deep stacks run as two loops in each direction, so
that the residuals of the later layers are freed before the gradients of the
earlier ones need room. (A TPU's compiler defers the allocation by itself, and
two loops would cost it more: it joins their gradients in a third array.)
"""

from __future__ import annotations

import functools
import itertools
from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
from flax import struct

# From this many layers on, two loops are worth the doubled compile time.
TWO_LOOPS_FROM = 8
# Share of the layers in the first loop. The residuals of a layer are slightly
# larger than its gradients; at this share, the residuals of the first loop with
# all gradients take as much as all residuals with the second loop's gradients.
FIRST_LOOP = 7 / 12

Tree = Any  # of arrays
# (params, h, layer, rest) -> h, for one layer: `params` is its slice of the
# stack, `layer` its uint32 number; `rest` (arrays or None) has no gradient.
Layer = Callable[[Tree, jax.Array, jax.Array, Tree], jax.Array]


@functools.partial(jax.custom_vjp, nondiff_argnums=(0, 1))
def apply(
  layer_fn: Layer, unroll: int, stack: Tree, h: jax.Array, rest: Tree
) -> jax.Array:
  """Applies all layers to `h`, one after another.

  Args:
    layer_fn: one layer; wrap it in `jax.checkpoint` to choose what is kept.
    unroll: layers in one iteration of a loop.
    stack: parameters, each with a leading axis of layers.
    h: input; every layer returns the same shape and type.
    rest: further arguments that every layer gets.
  """

  def one(h: jax.Array, layer: jax.Array) -> tuple[jax.Array, None]:
    return layer_fn(_at(stack, layer), h, layer, rest), None

  for layers in _loops(stack):
    h, _ = jax.lax.scan(one, h, layers, unroll=unroll)
  return h


def _forward(
  layer_fn: Layer, unroll: int, stack: Tree, h: jax.Array, rest: Tree
) -> tuple[jax.Array, tuple[Tree, list[_Residuals]]]:
  def one(h: jax.Array, layer: jax.Array) -> tuple[jax.Array, _Residuals]:
    params = _at(stack, layer)
    h, pull_back = jax.vjp(lambda p, h: layer_fn(p, h, layer, rest), params, h)
    return h, _Residuals.of(pull_back, params)

  kept = []
  for layers in _loops(stack):
    h, residuals = jax.lax.scan(one, h, layers, unroll=unroll)
    kept.append(residuals)
  return h, (stack, kept)


def _backward(
  layer_fn: Layer,
  unroll: int,
  saved: tuple[Tree, list[_Residuals]],
  d_h: jax.Array,
) -> tuple[Tree, jax.Array, None]:
  del layer_fn
  stack, kept = saved

  def one(carry: Tree, x: tuple[jax.Array, _Residuals]) -> tuple[Tree, None]:
    (d_h, d_stack, at), (layer, residuals) = carry, x
    d_params, d_h = residuals.pull_back(_at(stack, layer))(d_h)
    d_stack = jax.tree.map(
      lambda x, update: jax.lax.dynamic_update_index_in_dim(x, update, at, 0),
      d_stack,
      d_params,
    )
    return (d_h, d_stack, at - 1), None

  parts: list[Tree] = []
  loops = zip(_loops(stack), kept, strict=True)
  for layers, residuals in reversed(list(loops)):
    zero = jnp.float32(0)
    # XLA's CPU backend allocates a constant before everything else, so the zero
    # depends on d_h. On a mesh its first element would go to every device.
    if jax.sharding.get_abstract_mesh().size <= 1:
      zero *= d_h.ravel()[0].astype(jnp.float32)
    empty = _full_stack(len(layers), stack, zero)
    (d_h, d_stack, _), _ = jax.lax.scan(
      one,
      (d_h, empty, len(layers) - 1),
      (layers, residuals),
      reverse=True,
      unroll=unroll,
    )
    parts.insert(0, d_stack)
  d_stack = jax.tree.map(lambda *x: jnp.concatenate(x), *parts)
  return d_stack, d_h, None


apply.defvjp(_forward, _backward)


class _Residuals(struct.PyTreeNode):
  """A function returned by `jax.vjp`, stored without the layer's parameters.

  Attributes:
    arrays: its arrays; a bfloat16 one as uint16 bits, because XLA's CPU backend
      converts a whole bfloat16 stack to float32 to read one slice.
    tree: its tree structure.
    places: for each leaf, a parameter's index, or None for one of `arrays`.
  """

  arrays: list[jax.Array]
  tree: Any = struct.field(pytree_node=False)
  places: tuple[int | None, ...] = struct.field(pytree_node=False)

  @classmethod
  def of(cls, pull_back: Callable[..., Any], params: Tree) -> _Residuals:
    leaves, tree = jax.tree.flatten(pull_back)
    place = {id(x): i for i, x in enumerate(jax.tree.leaves(params))}
    places = tuple(place.get(id(x)) for x in leaves)
    arrays = [x for x, i in zip(leaves, places, strict=True) if i is None]
    return cls([_to_bits(x) for x in arrays], tree, places)

  def pull_back(self, params: Tree) -> Callable[..., Any]:
    """Restores the function: d_out -> (d_params, d_h)."""
    leaves, arrays = jax.tree.leaves(params), iter(self.arrays)
    return jax.tree.unflatten(
      self.tree,
      [
        _from_bits(next(arrays)) if i is None else leaves[i]
        for i in self.places
      ],
    )


def _to_bits(x: jax.Array) -> jax.Array:
  if x.dtype != jnp.bfloat16:
    return x
  return jax.lax.bitcast_convert_type(x, jnp.uint16)


def _from_bits(x: jax.Array) -> jax.Array:
  if x.dtype != jnp.uint16:
    return x
  return jax.lax.bitcast_convert_type(x, jnp.bfloat16)


def _at(stack: Tree, layer: jax.Array) -> Tree:
  return jax.tree.map(
    lambda x: jax.lax.dynamic_index_in_dim(x, layer, keepdims=False), stack
  )


def _full_stack(length: int, stack: Tree, value: jax.Array) -> Tree:
  return jax.tree.map(
    lambda x: jnp.full((length, *x.shape[1:]), value, x.dtype), stack
  )


def _loops(stack: Tree) -> list[jax.Array]:
  """Returns the layer numbers, uint32, of each loop."""
  length = len(jax.tree.leaves(stack)[0])
  first = round(FIRST_LOOP * length) if length >= TWO_LOOPS_FROM else length
  bounds = sorted({0, first, length})
  return [
    jnp.arange(start, end, dtype=jnp.uint32)
    for start, end in itertools.pairwise(bounds)
  ]
