"""Describes the active mesh: its devices and the axes the compiler partitions.

Within a `jax.shard_map` over some axes, an array is one device's part along
them; constraints may name only the other axes.
"""

import contextlib
import contextvars
import math
from collections.abc import Iterator

import jax

_reduce_dtype = contextvars.ContextVar('reduce_dtype', default='float32')


def automatic_axes() -> frozenset[str]:
  """Returns the axes of the active mesh that no `shard_map` maps over."""
  mesh = jax.sharding.get_abstract_mesh()
  return frozenset(mesh.axis_names) - frozenset(mesh.manual_axes)


def is_partitioned(*axes: str) -> bool:
  """Returns True if the compiler partitions arrays over several devices.

  Args:
    *axes: axes of the mesh; all, if none is given.
  """
  mesh, names = jax.sharding.get_abstract_mesh(), automatic_axes()
  if axes:
    names &= set(axes)
  return math.prod(mesh.shape[axis] for axis in names) > 1


def platform() -> str:
  """Returns 'cpu', 'gpu' or 'tpu', for the active mesh or this machine.

  The mesh may consist of devices that this machine does not have.
  """
  device = jax.sharding.get_abstract_mesh().abstract_device
  return device.platform if device else jax.default_backend()


def reduce_dtype() -> str:
  """Returns the type in which devices sum gradients; see MeshSettings."""
  return _reduce_dtype.get()


@contextlib.contextmanager
def reducing(dtype: str) -> Iterator[None]:
  """Sets `reduce_dtype` for the gradients of what is traced inside."""
  token = _reduce_dtype.set(dtype)
  try:
    yield
  finally:
    _reduce_dtype.reset(token)


def device_kind() -> str:
  """Returns the model of the device, such as 'TPU v4'; see `platform`."""
  device = jax.sharding.get_abstract_mesh().abstract_device or jax.devices()[0]
  return device.device_kind
