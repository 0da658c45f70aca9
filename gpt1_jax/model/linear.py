"""Products with float32 accumulation, forward and backward.

A bfloat16 product reaches its full speed, on a TPU as on a CPU, only if it
accumulates in float32 and if the products of its gradient do the same with
operands of the same type; `einsum` sees to both. `Linear` is the layer made of
it, with the parameter names and the layout of the original.
"""

import functools
import re
from collections.abc import Callable

import jax
import jax.numpy as jnp
from flax import linen as nn


def einsum(spec: str, x: jax.Array, y: jax.Array) -> jax.Array:
  """`jnp.einsum(spec, x, y)` in float32, operands kept in `x`'s type.

  Every letter of `spec` stands in two of its three terms (a plain product:
  no letter is summed out of one operand alone).

  Args:
    spec: such as 'BTD,DF->BTF'.
    x: float32 or bfloat16; it says the type in which the product is taken.
    y: any float type; cast to `x`'s.

  Returns:
    float32, whatever the operands are.

  """
  return _einsum(spec, x, y)


# Letters that are one axis of a product in float32, n or m, where they stand
# side by side in every term that has them: with two axes to sum over, XLA's CPU
# backend transposes an operand that it can read as it lies. (In bfloat16 it
# wants it transposed.) Of each pair only the first may be spread over devices.
_PAIRS = (('BT', 'n'), ('BC', 'n'), ('HK', 'm'))


@functools.partial(jax.custom_vjp, nondiff_argnums=(0,))
def _einsum(spec, x, y):
  y = y.astype(x.dtype)
  letters = re.sub(',|->.*', '', spec)
  sizes = dict(zip(letters, x.shape + y.shape, strict=True))
  out_shape = [sizes[letter] for letter in spec.split('->')[1]]
  for pair, one in _PAIRS if x.dtype == jnp.float32 else ():
    terms = [term for term in re.split(',|->', spec) if set(pair) & set(term)]
    if terms and all(pair in term for term in terms):
      spec = spec.replace(pair, one)
      sizes[one] = sizes[pair[0]] * sizes[pair[1]]
  inputs, out = spec.split('->')
  x_spec, y_spec = inputs.split(',')
  x = x.reshape([sizes[letter] for letter in x_spec])
  y = y.reshape([sizes[letter] for letter in y_spec])
  kept = [letter for letter in out if (letter in x_spec) != (letter in y_spec)]
  # The operand whose letters the result has first goes first: what comes out
  # lies as it is wanted. In the other order XLA's CPU backend transposes, and
  # has no kernel for batched products in bfloat16.
  if kept and kept[0] in y_spec:
    x_spec, y_spec, x, y = y_spec, x_spec, y, x
  z = jnp.einsum(
    f'{x_spec},{y_spec}->{out}', x, y, preferred_element_type=jnp.float32
  )
  return z.reshape(out_shape)


def _einsum_fwd(spec, x, y):
  return _einsum(spec, x, y), (x, y)


def _einsum_bwd(spec, operands, g):
  x, y = operands
  inputs, out = spec.split('->')
  x_spec, y_spec = inputs.split(',')
  g = g.astype(x.dtype)
  dx = _einsum(f'{out},{y_spec}->{x_spec}', g, y)
  dy = _einsum(f'{x_spec},{out}->{y_spec}', x, g)
  return dx.astype(x.dtype), dy.astype(y.dtype)


_einsum.defvjp(_einsum_fwd, _einsum_bwd)


class Linear(nn.Module):
  """`einsum(spec, x, kernel) + bias`; kernel N(0, 0.02), bias 0 (P §4.1).

  Attributes:
    spec: the product, such as 'BTD,DF->BTF'.
    shape: the kernel's shape.
    axes: the kernel's logical axes; the bias has the trailing ones that the
      output keeps, wherever they stand there.
    bias_ndim: how many trailing axes of the kernel the bias has.
    merged: the kernel's shape in the product, if some of its axes are one
      there.

  """

  spec: str
  shape: tuple[int, ...]
  axes: tuple[str | None, ...]
  bias_ndim: int = 1
  merged: tuple[int, ...] | None = None

  @nn.compact
  def __call__(self, x: jax.Array) -> jax.Array:
    kernel = self.param(
      'kernel',
      nn.with_logical_partitioning(normal_init(), self.axes),
      self.shape,
      jnp.float32,
    )
    bias = self.param(
      'bias',
      nn.with_logical_partitioning(
        nn.initializers.zeros, self.axes[-self.bias_ndim :]
      ),
      self.shape[-self.bias_ndim :],
      jnp.float32,
    )
    inputs, out = self.spec.split('->')
    x_spec, kernel_spec = inputs.split(',')
    kernel = kernel.reshape(self.merged or self.shape)
    sizes = dict(zip(kernel_spec, kernel.shape, strict=True))
    bias = bias.reshape([1 if a in x_spec else sizes[a] for a in out])
    return (einsum(self.spec, x, kernel) + bias).astype(x.dtype)


def normal_init() -> Callable[..., jax.Array]:
  """N(0, 0.02), for every weight of the model (P §4.1)."""
  return nn.initializers.normal(stddev=0.02)
