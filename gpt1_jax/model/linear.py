"""Computes products that accumulate in float32, forward and backward.

A bfloat16 product reaches full speed, on a TPU as on a CPU, only if it
accumulates in float32 and if the products of its gradient do the same with
bfloat16 operands. `einsum` does both. `Linear` is a layer that uses it, with
the parameter names and the layout of the released code.
"""

import functools
import re
from typing import Any

import jax
import jax.numpy as jnp
from flax import linen as nn

from gpt1_jax.model import placement

STDDEV = 0.02  # of initial weights (P §4.1)


def einsum(spec: str, x: jax.Array, y: jax.Array) -> jax.Array:
  """Returns `jnp.einsum(spec, x, y)` in float32, computed in `x`'s type.

  Args:
    spec: a plain product such as 'BTD,DF->BTF': every letter stands in two of
      the three terms.
    x: float32 or bfloat16.
    y: any float type; cast to the type of `x`. If devices sum its gradient and
      it is a weight (float32), they do so in `placement.reduce_dtype()`.
  """
  return _einsum(spec, x, y)


# Pairs of adjacent letters that become one axis of a float32 product, in specs
# whose every term with one of them has both: with two axes to sum over, XLA's
# CPU backend transposes an operand that it could read in place. (In bfloat16 it
# needs the transpose.) Only the first axis of a pair may be sharded.
_MERGED_PAIRS = (('BT', 'n'), ('BC', 'n'), ('HK', 'm'))


@functools.partial(jax.custom_vjp, nondiff_argnums=(0,))
def _einsum(spec: str, x: jax.Array, y: jax.Array) -> jax.Array:
  return _product(spec, x, y, jnp.float32)


def _product(spec: str, x: jax.Array, y: jax.Array, dtype: Any) -> jax.Array:
  """Computes a product in `x`'s type; accumulates in float32, then rounds."""
  y = y.astype(x.dtype)
  letters = re.sub(',|->.*', '', spec)
  sizes = dict(zip(letters, x.shape + y.shape, strict=True))
  out_shape = [sizes[letter] for letter in spec.split('->')[1]]
  for pair, one in _MERGED_PAIRS if x.dtype == jnp.float32 else ():
    terms = [term for term in re.split(',|->', spec) if set(pair) & set(term)]
    if terms and all(pair in term for term in terms):
      spec = spec.replace(pair, one)
      sizes[one] = sizes[pair[0]] * sizes[pair[1]]
  x_spec, y_spec, out = re.split(',|->', spec)
  x = x.reshape([sizes[letter] for letter in x_spec])
  y = y.reshape([sizes[letter] for letter in y_spec])
  kept = [letter for letter in out if (letter in x_spec) != (letter in y_spec)]
  # The operand with the result's first letters goes first, so that the result
  # needs no transpose. In the other order XLA's CPU backend transposes, and has
  # no kernel for batched bfloat16 products.
  if kept and kept[0] in y_spec:
    x_spec, y_spec, x, y = y_spec, x_spec, y, x
  z = jnp.einsum(
    f'{x_spec},{y_spec}->{out}', x, y, preferred_element_type=dtype
  )
  return z.reshape(out_shape)


def _einsum_fwd(
  spec: str, x: jax.Array, y: jax.Array
) -> tuple[jax.Array, tuple[jax.Array, jax.Array]]:
  return _einsum(spec, x, y), (x, y)


def _einsum_bwd(
  spec: str, operands: tuple[jax.Array, jax.Array], g: jax.Array
) -> tuple[jax.Array, jax.Array]:
  x, y = operands
  x_spec, y_spec, out = re.split(',|->', spec)
  g = g.astype(x.dtype)
  dx = _product(f'{out},{y_spec}->{x_spec}', g, y, jnp.float32)
  # The compiler sums a product over devices in the product's own type.
  batch = placement.is_partitioned('data', 'fsdp')
  summed = batch and y.dtype == jnp.float32
  dtype = placement.reduce_dtype() if summed else jnp.float32
  dy = _product(f'{x_spec},{out}->{y_spec}', x, g, dtype)
  return dx.astype(x.dtype), dy.astype(y.dtype)


_einsum.defvjp(_einsum_fwd, _einsum_bwd)


class Linear(nn.Module):
  """`einsum(spec, x, kernel) + bias`; kernel N(0, 0.02), bias 0 (P §4.1).

  Attributes:
    spec: the product, such as 'BTD,DF->BTF'.
    shape: shape of the kernel parameter.
    axes: logical axes of the kernel; the bias has the last `bias_ndim` of them.
    bias_ndim: axes of the bias.
    merged: shape of the kernel in the product, if some of its axes are merged
      there.
  """

  spec: str
  shape: tuple[int, ...]
  axes: tuple[str | None, ...]
  bias_ndim: int = 1
  merged: tuple[int, ...] | None = None

  @nn.compact
  def __call__(self, x: jax.Array) -> jax.Array:
    kernel = self._parameter('kernel', normal_init(), len(self.shape))
    bias = self._parameter('bias', nn.initializers.zeros, self.bias_ndim)
    x_spec, kernel_spec, out = re.split(',|->', self.spec)
    kernel = kernel.reshape(self.merged or self.shape)
    sizes = dict(zip(kernel_spec, kernel.shape, strict=True))
    bias = bias.reshape([1 if a in x_spec else sizes[a] for a in out])
    return (einsum(self.spec, x, kernel) + bias).astype(x.dtype)

  def _parameter(
    self, name: str, init: nn.initializers.Initializer, ndim: int
  ) -> Any:
    init = nn.with_logical_partitioning(init, self.axes[-ndim:])
    return self.param(name, init, self.shape[-ndim:], jnp.float32)


def weight(
  module: nn.Module,
  name: str,
  shape: tuple[int, ...],
  axes: tuple[str | None, ...],
) -> Any:
  """Creates a parameter N(0, 0.02) of a module, with these logical axes."""
  init = nn.with_logical_partitioning(normal_init(), axes)
  return module.param(name, init, shape, jnp.float32)


def normal_init() -> nn.initializers.Initializer:
  """Returns the initialiser of all weights: N(0, 0.02) (P §4.1)."""
  return nn.initializers.normal(stddev=STDDEV)
