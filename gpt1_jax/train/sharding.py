"""The mesh, the one table of logical axes, and what follows from them.

Axes of the mesh: data (batches), fsdp (batches and parameters), tensor (heads
and feed-forward). `jax.set_mesh` puts the mesh in force; Linen's constraints
and partition specs read the table below.
"""

import contextlib
import math
from collections.abc import Callable, Iterator, Sequence
from typing import Any

import jax
import numpy as np
from flax import linen as nn
from jax.experimental import mesh_utils
from jax.sharding import AxisType, NamedSharding, PartitionSpec

from gpt1_jax.errors import UserError

MESH_AXES = ('data', 'fsdp', 'tensor')
BATCH_AXES = ('data', 'fsdp')
# Of the softmax over the vocabulary (losses.py), which pads the rows to divide.
# The matrix itself is stored in its 40,478 rows, which nothing but 2, 37 and
# 547 divide: cut along embed, checkpoints are alike on every mesh.
VOCAB_AXIS = 'tensor'
LOGICAL_AXIS_RULES = (
  ('batch', BATCH_AXES),
  ('embed', 'fsdp'),
  ('heads', 'tensor'),
  ('mlp', 'tensor'),
  ('vocab', None),
  ('norm', None),
  ('layers', None),
)


def make_mesh(
  devices: Sequence[Any], *, data: int, fsdp: int, tensor: int
) -> jax.sharding.Mesh:
  """A mesh over devices; see `arrange`.

  Args:
    devices: those that are there (`jax.devices()`), or a topology's.
    data, fsdp, tensor: sizes, one of which may be -1 (what is left).
  """
  return jax.sharding.Mesh(
    arrange(devices, [data, fsdp, tensor]),
    MESH_AXES,
    axis_types=(AxisType.Auto,) * 3,
  )


def arrange(devices: Sequence[Any], sizes: Sequence[int]) -> np.ndarray:
  """Devices in the shape of a mesh, neighbours where they are near.

  Of several slices, which a slower network joins, data takes as many as it
  divides into, then fsdp, then tensor.

  Raises:
    UserError: the sizes do not multiply to the number of devices, or do not
      divide over the slices.
  """
  sizes, asked = list(sizes), 'x'.join(str(s) for s in sizes)
  count = len(devices)
  if any(s < 1 and s != -1 for s in sizes) or sizes.count(-1) > 1:
    raise UserError(
      f'mesh {asked} (data x fsdp x tensor): sizes are positive, one may be -1'
    )
  known = int(np.prod([s for s in sizes if s != -1]))
  if -1 in sizes and count % known == 0:
    sizes[sizes.index(-1)] = count // known
  if int(np.prod(sizes)) != count:
    raise UserError(
      f'mesh {asked} (data x fsdp x tensor) does not fit {count} devices; '
      'set config.mesh.data=-1 to take what is left'
    )
  slices = len({getattr(d, 'slice_index', None) for d in devices})
  if slices == 1:
    return mesh_utils.create_device_mesh(
      sizes, devices, allow_split_physical_axes=True
    )
  left, across = slices, []
  for size in sizes:
    across.append(math.gcd(size, left))
    left //= across[-1]
  if left > 1:
    raise UserError(
      f'mesh {asked} (data x fsdp x tensor) does not divide over {slices} '
      f'slices; make config.mesh.data a multiple of {slices}'
    )
  within = [size // a for size, a in zip(sizes, across, strict=True)]
  return mesh_utils.create_hybrid_device_mesh(
    within, across, devices, allow_split_physical_axes=True
  )


@contextlib.contextmanager
def use(mesh: jax.sharding.Mesh) -> Iterator[None]:
  """Puts the mesh and the table of logical axes in force.

  Without both, Linen's constraints are silently nothing.
  """
  with jax.set_mesh(mesh), nn.logical_axis_rules(LOGICAL_AXIS_RULES):
    yield


def check_divides(
  mesh: jax.sharding.Mesh, batch_size: int, microbatches: int, **sizes: int
) -> None:
  """Refuses, before any computation, what the mesh cannot divide.

  Args:
    mesh: from `make_mesh`.
    batch_size: examples of the global batch.
    microbatches: parts it is cut into.
    **sizes: `divided` of the model's configuration.

  Raises:
    UserError: with the two numbers and the settings to change.
  """
  rows = mesh.shape['data'] * mesh.shape['fsdp']
  if batch_size % (rows * microbatches):
    raise UserError(
      f'data.batch_size {batch_size} does not divide into {microbatches} '
      f'microbatches over data x fsdp = {rows} devices: change one of them'
    )
  axes = {'n_embd': 'fsdp', 'n_head': 'tensor', 'units': 'tensor'}
  for name, size in sizes.items():
    axis = axes[name]
    if size % mesh.shape[axis]:
      raise UserError(
        f'model.{name} {size} does not divide over mesh.{axis} = '
        f'{mesh.shape[axis]}'
      )


def jit_init(
  init: Callable[..., Any], mesh: jax.sharding.Mesh, *args: Any
) -> tuple[Callable[..., Any], Any]:
  """`init(*args)` compiled so that its arrays are born sharded.

  Args:
    init: makes a tree whose parameters are boxed with logical axis names.
    mesh: in force.
    *args: arrays, such as a seed; others of their kind are not compiled again.

  Returns:
    The function, whose tree is unboxed, and the tree's shardings.
  """
  shardings = state_shardings(jax.eval_shape(init, *args), mesh)
  make = jax.jit(lambda *args: nn.unbox(init(*args)), out_shardings=shardings)
  return make, shardings


def state_shardings(abstract: Any, mesh: jax.sharding.Mesh) -> Any:
  """NamedShardings of a boxed abstract tree, by LOGICAL_AXIS_RULES."""
  specs = nn.get_partition_spec(abstract)
  return nn.logical_to_mesh_sharding(specs, mesh, LOGICAL_AXIS_RULES)


def batch_sharding(mesh: jax.sharding.Mesh) -> NamedSharding:
  """Rows of a batch over data and fsdp."""
  return NamedSharding(mesh, PartitionSpec(BATCH_AXES))


def replicated(mesh: jax.sharding.Mesh) -> NamedSharding:
  """The same on every device."""
  return NamedSharding(mesh, PartitionSpec())


def abstract(tree: Any, shardings: Any) -> Any:
  """Shapes and types of a tree, with shardings: what `lower` takes."""
  return jax.tree.map(
    lambda x, s: jax.ShapeDtypeStruct(x.shape, x.dtype, sharding=s),
    tree,
    shardings,
  )


def host_rows(mesh: jax.sharding.Mesh, batch_size: int) -> list[int]:
  """Rows of the global batch that this host's devices hold, in order.

  Hosts that share a row, as they do where tensor spans hosts, each read it.

  Raises:
    UserError: the batch does not divide over the mesh.
  """
  parts = mesh.shape['data'] * mesh.shape['fsdp']
  if batch_size % parts:
    raise UserError(
      f'data.batch_size {batch_size} does not divide over data x fsdp = '
      f'{parts} devices: change one of them'
    )
  rows = batch_size // parts
  return [
    part * rows + row for part in _host_parts(mesh) for row in range(rows)
  ]


def put_batch(
  batch: dict[str, np.ndarray], mesh: jax.sharding.Mesh
) -> dict[str, jax.Array]:
  """This host's rows (`host_rows`) → global arrays."""
  sharding = batch_sharding(mesh)
  here = _host_parts(mesh)
  parts = mesh.shape['data'] * mesh.shape['fsdp']

  def put(local):
    rows = len(local) // len(here)

    def part(index):
      place = here.index((index[0].start or 0) // rows) * rows
      return local[place : place + rows]

    shape = (rows * parts, *local.shape[1:])
    return jax.make_array_from_callback(shape, sharding, part)

  return {name: put(local) for name, local in batch.items()}


def _host_parts(mesh: jax.sharding.Mesh) -> list[int]:
  """Which parts of a batch, cut over data x fsdp, this host's devices hold."""
  parts = mesh.devices.reshape(-1, mesh.shape['tensor'])
  here = jax.process_index()
  return [
    part
    for part, devices in enumerate(parts)
    if any(device.process_index == here for device in devices)
  ]


def like(tree: Any, placed: Any) -> Any:
  """Numpy arrays → arrays with the shardings of `placed`, a tree alike."""
  return jax.tree.map(lambda x, y: put(x, y.sharding), tree, placed)


def gather(tree: Any) -> Any:
  """Arrays → numpy, whole, on every host."""

  def whole(x):
    if not x.is_fully_addressable:
      everywhere = replicated(x.sharding.mesh)
      x = jax.jit(lambda x: x, out_shardings=everywhere)(x)
    return jax.device_get(x)

  return jax.tree.map(whole, tree)


def put(x: np.ndarray, sharding: NamedSharding) -> jax.Array:
  """An array that every host has whole → its parts on this host's devices."""
  x = np.asarray(x)
  return jax.make_array_from_callback(x.shape, sharding, lambda i: x[i])
