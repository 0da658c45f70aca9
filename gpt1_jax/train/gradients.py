"""Sums gradients over microbatches first, then once over devices.

By default the compiler reduces the gradient of a replicated parameter over the
devices in every microbatch. Here each device on the data axis first adds up the
gradients of its own rows.
"""

import dataclasses
from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
from flax import linen as nn
from jax.sharding import PartitionSpec

from gpt1_jax.model import placement
from gpt1_jax.train import sharding

Params = Any
Rows = Any  # a tree of arrays with a row for each example
Sums = tuple[jax.Array, jax.Array, Params]  # loss, weight, gradient
# (params, rows, mean) -> sums; with `mean`, loss and gradient are means.
Part = Callable[[Params, Rows, bool], Sums]


@dataclasses.dataclass(frozen=True)
class Plan:
  """Settings for summing the gradient of a batch.

  Attributes:
    microbatches: sequential parts that the batch is split into.
    scattered: for each parameter, the sharding of its gradient and moments if
      the data axis divides them; None otherwise.
    reduce_dtype: type in which devices sum gradients; see MeshSettings.
  """

  microbatches: int = 1
  scattered: Any = None
  reduce_dtype: str = 'float32'


def mean(
  part: Part, params: Params, rows: Rows, plan: Plan
) -> tuple[jax.Array, Params]:
  """Returns the mean loss of a batch and its gradient.

  Args:
    part: computes a part of the batch.
    params: the parameters.
    rows: the batch, sharded over data and fsdp.
    plan: how the gradient is summed.
  """
  mesh = jax.sharding.get_abstract_mesh()
  with placement.reducing(plan.reduce_dtype):
    if plan.microbatches == 1 and plan.scattered is None:
      loss, _, grads = part(params, rows, True)
      return loss, grads
    if mesh.empty or mesh.shape['data'] == 1:
      sums = _over_microbatches(part, params, rows, plan.microbatches)
    else:
      sums = _over_devices(part, params, rows, plan)
  loss, weight, grads = sums
  loss, grads = jax.tree.map(lambda x: x * inverse(weight), (loss, grads))
  return loss, grads


def inverse(weight: jax.Array) -> jax.Array:
  """Returns the factor that turns a sum with this weight into a mean."""
  return 1.0 / jnp.maximum(weight, 1e-9)


def _over_microbatches(
  part: Part, params: Params, rows: Rows, microbatches: int
) -> Sums:
  if microbatches == 1:
    return part(params, rows, False)

  def accumulate(total: Any, rows: Rows) -> tuple[Any, None]:
    return jax.tree.map(jnp.add, total, part(params, rows, False)), None

  def split(x: jax.Array) -> jax.Array:
    # Takes every n-th row, so each part has rows from every device.
    return jnp.moveaxis(x.reshape(-1, microbatches, *x.shape[1:]), 1, 0)

  zero = jax.tree.map(jnp.zeros_like, params)
  start = (jnp.float32(0), jnp.float32(0), zero)
  return jax.lax.scan(accumulate, start, jax.tree.map(split, rows))[0]


def _over_devices(part: Part, params: Params, rows: Rows, plan: Plan) -> Sums:
  """Sums each device's rows, then sums over the devices."""
  mesh = jax.sharding.get_abstract_mesh()
  # Mapping over mesh axes of size 1 as well leaves the compiler nothing to
  # partition on a mesh that is data-parallel only.
  mapped = {'data', *(a for a, size in mesh.shape.items() if size == 1)}
  axes = jax.tree.map(lambda _: -1, params)
  if plan.scattered is not None:
    axes = jax.tree.map(sharding.data_axis, plan.scattered)

  def reduce(x: jax.Array, axis: int) -> jax.Array:
    if plan.reduce_dtype == 'bfloat16':
      x = jax.lax.reduce_precision(x, exponent_bits=8, mantissa_bits=7)
      # XLA's CPU backend aborts on some sums in bfloat16.
      if placement.platform() != 'cpu':
        x = x.astype(jnp.bfloat16)
    if axis < 0:
      x = jax.lax.psum(x, 'data')
    else:
      x = jax.lax.psum_scatter(x, 'data', scatter_dimension=axis, tiled=True)
    return x.astype(jnp.float32)

  def local(params: Params, rows: Rows) -> Sums:
    with nn.logical_axis_rules(sharding.rules_beside(mapped)):
      sums = _over_microbatches(part, params, rows, plan.microbatches)
    loss, weight, grads = sums
    loss, weight = jax.lax.psum((loss, weight), 'data')
    return loss, weight, jax.tree.map(reduce, grads, axes)

  def spec(axis: int) -> PartitionSpec:
    return PartitionSpec(*[None] * axis, 'data') if axis >= 0 else none

  none = PartitionSpec()
  return jax.shard_map(
    local,
    in_specs=(none, PartitionSpec('data')),
    out_specs=(none, none, jax.tree.map(spec, axes)),
    axis_names=mapped,
    check_vma=False,  # arrays created inside, such as zeros, do not vary
  )(params, rows)
