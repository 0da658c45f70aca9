"""Builds the mesh, maps logical axes to it, and places arrays on it.

Mesh axes: data (batch), fsdp (batch and parameters), tensor (heads and
feed-forward). `use` activates a mesh and the table of logical axes, which
Linen's constraints and partition specs read.
"""

import contextlib
import math
from collections.abc import Callable, Collection, Iterator, Mapping, Sequence
from typing import Any

import jax
import numpy as np
from flax import linen as nn
from jax.experimental import mesh_utils
from jax.sharding import AxisType, NamedSharding, PartitionSpec

from gpt1_jax.errors import UserError
from gpt1_jax.train import hosts

Tree = Any  # a tree of arrays, shapes or shardings
MESH_AXES = ('data', 'fsdp', 'tensor')
BATCH_AXES = ('data', 'fsdp')
# The softmax is sharded by vocabulary, padded in losses.py; the parameter along
# embed, because 40,478 rows rarely divide. So every mesh has equal checkpoints.
VOCAB_AXIS, EMBED_AXIS = 'tensor', 'fsdp'
LOGICAL_AXIS_RULES = (
  ('batch', BATCH_AXES),
  ('lookup', 'data'),  # the batch, while fsdp shards the columns looked up
  ('embed', EMBED_AXIS),
  ('heads', 'tensor'),
  ('mlp', 'tensor'),
  ('vocab', None),
  ('norm', None),
  ('layers', None),
)


def make_mesh(
  devices: Sequence[Any], *, data: int = -1, fsdp: int = 1, tensor: int = 1
) -> jax.sharding.Mesh:
  """Builds a mesh of `jax.devices()`, or of a topology to compile for.

  One of the axis sizes may be -1, which uses all remaining devices.

  Raises:
    UserError: see `arrange`.
  """
  arranged = arrange(devices, [data, fsdp, tensor])
  types = (AxisType.Auto,) * 3
  return jax.sharding.Mesh(arranged, MESH_AXES, axis_types=types)


def arrange(devices: Sequence[Any], sizes: Sequence[int]) -> np.ndarray:
  """Arranges devices in the shape of a mesh, keeping near devices adjacent.

  Several slices are joined by a slower network. The data axis spans as many of
  them as divide it, then fsdp, then tensor.

  Raises:
    UserError: the product of the sizes is not the number of devices, or the
      mesh does not split evenly over the slices.
  """
  sizes, count = list(sizes), len(devices)
  mesh = f'mesh {"x".join(map(str, sizes))} (data x fsdp x tensor)'
  if any(s < 1 and s != -1 for s in sizes) or sizes.count(-1) > 1:
    raise UserError(f'{mesh}: sizes must be positive; one may be -1')
  known = math.prod(s for s in sizes if s != -1)
  if -1 in sizes and count % known == 0:
    sizes[sizes.index(-1)] = count // known
  if math.prod(sizes) != count:
    raise UserError(
      f'{mesh} does not fit {count} devices; set config.mesh.data=-1 to use '
      'all remaining devices'
    )
  if (slices := len({getattr(d, 'slice_index', 0) for d in devices})) == 1:
    return mesh_utils.create_device_mesh(
      sizes, devices, allow_split_physical_axes=True
    )
  left, across = slices, []
  for size in sizes:
    across.append(math.gcd(size, left))
    left //= across[-1]
  if left > 1:
    raise UserError(
      f'{mesh} does not split evenly over {slices} slices; make '
      f'config.mesh.data a multiple of {slices}'
    )
  within = [size // a for size, a in zip(sizes, across, strict=True)]
  return mesh_utils.create_hybrid_device_mesh(
    within, across, devices, allow_split_physical_axes=True
  )


@contextlib.contextmanager
def use(mesh: jax.sharding.Mesh) -> Iterator[None]:
  """Activates the mesh and the table of logical axes.

  Without either, Linen silently ignores its sharding constraints.
  """
  with jax.set_mesh(mesh), nn.logical_axis_rules(LOGICAL_AXIS_RULES):
    yield


def rules_beside(mapped: Collection[str]) -> list[tuple[str, Any]]:
  """Returns the table of logical axes without the mesh axes in `mapped`."""

  def rest(axes: Any) -> Any:
    names = (axes,) if isinstance(axes, str) else axes or ()
    return tuple(name for name in names if name not in mapped) or None

  return [(name, rest(axes)) for name, axes in LOGICAL_AXIS_RULES]


def check_divides(
  mesh: jax.sharding.Mesh, batch_size: int, microbatches: int, **sizes: int
) -> None:
  """Checks that the mesh divides the batch and the model.

  Args:
    mesh, batch_size, microbatches: see config.mesh, config.data, config.train.
    **sizes: the model configuration's `divided`.

  Raises:
    UserError: a size does not divide; the message names the settings to change.
  """
  parts = num_batch_parts(mesh)
  if batch_size % (parts * microbatches):
    raise UserError(
      f'data.batch_size {batch_size} does not split evenly into {microbatches} '
      f'microbatches over data x fsdp = {parts} devices: change one of them'
    )
  axes = {'n_embd': 'fsdp', 'n_head': 'tensor', 'units': 'tensor'}
  for name, size in sizes.items():
    axis = axes[name]
    if size % mesh.shape[axis]:
      raise UserError(
        f'model.{name} {size} does not split evenly over mesh.{axis} = '
        f'{mesh.shape[axis]}'
      )


def jit_init(
  init: Callable[..., Tree],
  mesh: jax.sharding.Mesh,
  *args: Any,
  place: Callable[[Tree, Tree], Tree] = lambda tree, shardings: shardings,
) -> tuple[Callable[..., Tree], Tree]:
  """Jits `init` so that its arrays are created sharded over the active mesh.

  Args:
    init: returns a tree of parameters, boxed with logical axis names.
    place: changes the shardings of the table, given the shapes and these.

  Returns:
    The function, which returns an unboxed tree, and the tree's shardings.
  """
  boxed = jax.eval_shape(init, *args)
  shapes = jax.eval_shape(nn.unbox, boxed)
  shardings = place(shapes, state_shardings(boxed, mesh))
  make = jax.jit(lambda *args: nn.unbox(init(*args)), out_shardings=shardings)
  return make, shardings


def state_shardings(abstract: Tree, mesh: jax.sharding.Mesh) -> Tree:
  """Returns the NamedShardings of a boxed tree of shapes."""
  specs = nn.get_partition_spec(abstract)
  return nn.logical_to_mesh_sharding(specs, mesh, LOGICAL_AXIS_RULES)


def scattered(x: Any, sharding: NamedSharding) -> NamedSharding:
  """Adds the data axis to the sharding of an array `x`, if it can.

  Divides the longest dimension that is not yet sharded and is a multiple of the
  devices. Prefers any other to the last one, which the hardware pads to tiles.
  """
  sizes = sharding.mesh.shape
  count = sizes['data']
  names = [*sharding.spec, *[None] * (x.ndim - len(sharding.spec))]
  free = [
    (axis < x.ndim - 1, size, -axis)
    for axis, size in enumerate(x.shape)
    if sizes.get(names[axis], 1) == 1 and size % count == 0
  ]
  if count == 1 or not free:
    return sharding
  names[-max(free)[2]] = 'data'
  return NamedSharding(sharding.mesh, PartitionSpec(*names))


def data_axis(sharding: NamedSharding) -> int:
  """Returns the array dimension that the mesh axis `data` divides, or -1."""
  return next((i for i, name in enumerate(sharding.spec) if name == 'data'), -1)


def batch_sharding(mesh: jax.sharding.Mesh) -> NamedSharding:
  """Returns the sharding of a batch: rows over data and fsdp."""
  return NamedSharding(mesh, PartitionSpec(BATCH_AXES))


def replicated(
  mesh: jax.sharding.Mesh | jax.sharding.AbstractMesh,
) -> NamedSharding:
  """Returns the sharding of an array that is replicated on every device."""
  return NamedSharding(mesh, PartitionSpec())


def abstract(tree: Tree, shardings: Tree) -> Tree:
  """Returns ShapeDtypeStructs with shardings, to pass to `lower`."""
  return jax.tree.map(
    lambda x, s: jax.ShapeDtypeStruct(x.shape, x.dtype, sharding=s),
    tree,
    shardings,
  )


def num_batch_parts(mesh: jax.sharding.Mesh) -> int:
  """Returns the number of parts that the mesh divides a batch into."""
  return mesh.shape['data'] * mesh.shape['fsdp']


def host_rows(mesh: jax.sharding.Mesh, batch_size: int) -> list[int]:
  """Returns the rows of the global batch that this host loads, in order.

  If the tensor axis spans hosts, several hosts load the same row.

  Raises:
    UserError: the batch does not split evenly over the mesh.
  """
  parts = num_batch_parts(mesh)
  if batch_size % parts:
    raise UserError(
      f'data.batch_size {batch_size} does not split evenly over data x fsdp = '
      f'{parts} devices: change one of them'
    )
  size = batch_size // parts
  return [
    part * size + row for part in _host_parts(mesh) for row in range(size)
  ]


def put_batch(
  batch: Mapping[str, Any], mesh: jax.sharding.Mesh
) -> dict[str, jax.Array]:
  """Builds a batch's global arrays from the rows of `host_rows`."""
  sharding, here = batch_sharding(mesh), _host_parts(mesh)

  def put_rows(local: np.ndarray) -> jax.Array:
    rows = len(local) // len(here)

    def part(index: Any) -> np.ndarray:
      start = here.index((index[0].start or 0) // rows) * rows
      return local[start : start + rows]

    shape = (rows * num_batch_parts(mesh), *local.shape[1:])
    return jax.make_array_from_callback(shape, sharding, part)

  return {name: put_rows(local) for name, local in batch.items()}


def _host_parts(mesh: jax.sharding.Mesh) -> list[int]:
  """Returns the indices of the batch parts on this host's devices."""
  parts = mesh.devices.reshape(-1, mesh.shape['tensor'])
  here = jax.process_index()
  return [
    part
    for part, devices in enumerate(parts)
    if any(device.process_index == here for device in devices)
  ]


def put(x: Any, sharding: NamedSharding) -> jax.Array:
  """Shards an array that every host holds in full."""
  x = np.asarray(x)
  return jax.make_array_from_callback(x.shape, sharding, lambda i: x[i])


def replicate(tree: Tree, mesh: jax.sharding.Mesh) -> Tree:
  """Places weights on every device; refuses them if hosts' weights differ."""
  hosts.agree({'weights': tree})
  return jax.tree.map(lambda x: put(x, replicated(mesh)), tree)


def like(tree: Tree, placed: Tree) -> Tree:
  """Places weights as `placed` is; refuses them if hosts' weights differ."""
  hosts.agree({'weights': tree})
  return jax.tree.map(lambda x, y: put(x, y.sharding), tree, placed)


def gather(tree: Tree) -> Tree:
  """Gathers sharded arrays as full numpy arrays on every host."""

  def whole(x: jax.Array) -> np.ndarray:
    if not x.is_fully_addressable:
      assert isinstance(x.sharding, NamedSharding)
      x = jax.jit(lambda x: x, out_shardings=replicated(x.sharding.mesh))(x)
    return jax.device_get(x)

  return jax.tree.map(whole, tree)
