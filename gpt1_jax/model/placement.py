"""Tells which axes of the mesh in force the compiler partitions.

Within a `jax.shard_map` over some axes, arrays are those of one device along
them; only the other axes may be named in constraints.
"""

import math

import jax


def automatic_axes() -> frozenset[str]:
  """Returns the axes of the mesh in force that are not mapped over already."""
  mesh = jax.sharding.get_abstract_mesh()
  return frozenset(mesh.axis_names) - frozenset(mesh.manual_axes)


def is_partitioned() -> bool:
  """True if the compiler partitions arrays over more than one device."""
  mesh = jax.sharding.get_abstract_mesh()
  return math.prod(mesh.shape[axis] for axis in automatic_axes()) > 1
