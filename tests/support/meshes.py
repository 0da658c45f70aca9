"""Meshes over the CPU devices of the test process."""

import math
from collections.abc import Sequence
from typing import Any

import jax

from gpt1_jax.train import sharding


def make_mesh(
  *sizes: int, devices: Sequence[Any] | None = None
) -> jax.sharding.Mesh:
  """Returns a mesh of `sizes` (data, fsdp, tensor) on as few devices."""
  devices = devices or jax.devices()[: math.prod(sizes)]
  return sharding.make_mesh(
    devices, **dict(zip(sharding.MESH_AXES, sizes, strict=True))
  )
