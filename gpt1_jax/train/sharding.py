"""The mesh, the one table of logical axes, and what follows from them.

Axes of the mesh: data (batches), fsdp (batches and parameters), tensor (heads
and feed-forward). `jax.set_mesh` puts the mesh in force; Linen's constraints
and partition specs read the table below.
"""

import contextlib
from collections.abc import Callable, Iterator
from typing import Any

import jax
import numpy as np
from flax import linen as nn
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


def make_mesh(*, data: int, fsdp: int, tensor: int) -> jax.sharding.Mesh:
  """A mesh over all devices; one of the sizes may be -1 (what is left).

  Raises:
    UserError: the sizes do not multiply to the number of devices.
  """
  sizes = [data, fsdp, tensor]
  devices = jax.device_count()
  asked = 'x'.join(str(s) for s in sizes)
  if any(s < 1 and s != -1 for s in sizes) or sizes.count(-1) > 1:
    raise UserError(
      f'mesh {asked} (data x fsdp x tensor): sizes are positive, one may be -1'
    )
  known = int(np.prod([s for s in sizes if s != -1]))
  if -1 in sizes and devices % known == 0:
    sizes[sizes.index(-1)] = devices // known
  if int(np.prod(sizes)) != devices:
    raise UserError(
      f'mesh {asked} (data x fsdp x tensor) does not fit {devices} devices; '
      'set config.mesh.data=-1 to take what is left'
    )
  return jax.make_mesh(sizes, MESH_AXES, axis_types=(AxisType.Auto,) * 3)


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
    **sizes: n_embd and n_head.

  Raises:
    UserError: with the two numbers and the settings to change.
  """
  rows = mesh.shape['data'] * mesh.shape['fsdp']
  if batch_size % (rows * microbatches):
    raise UserError(
      f'data.batch_size {batch_size} does not divide into {microbatches} '
      f'microbatches over data x fsdp = {rows} devices: change one of them'
    )
  for name, axis in (('n_embd', 'fsdp'), ('n_head', 'tensor')):
    if sizes[name] % mesh.shape[axis]:
      raise UserError(
        f'model.{name} {sizes[name]} does not divide over mesh.{axis} = '
        f'{mesh.shape[axis]}'
      )


def init_state(
  init: Callable[[], Any], mesh: jax.sharding.Mesh
) -> tuple[Any, Any]:
  """Runs `init()` so that its arrays are born sharded.

  Args:
    init: makes a tree whose parameters are boxed with logical axis names.
    mesh: in force.

  Returns:
    The tree, unboxed, and its shardings.
  """
  make, shardings = jit_init(init, mesh)
  return make(), shardings


def jit_init(
  init: Callable[..., Any], mesh: jax.sharding.Mesh, *args: Any
) -> tuple[Callable[..., Any], Any]:
  """`init(*args)` compiled for a mesh, and its shardings; see `init_state`.

  Args:
    init: makes a tree whose parameters are boxed with logical axis names.
    mesh: in force.
    *args: arrays, such as a seed; others of their kind are not compiled again.
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


def put_batch(
  batch: dict[str, np.ndarray], mesh: jax.sharding.Mesh
) -> dict[str, jax.Array]:
  """This host's rows → global arrays."""
  sharding = batch_sharding(mesh)
  return {
    name: jax.make_array_from_process_local_data(sharding, rows)
    for name, rows in batch.items()
  }


def like(tree: Any, placed: Any) -> Any:
  """Numpy arrays → arrays with the shardings of `placed`, a tree alike."""
  return jax.tree.map(lambda x, y: jax.device_put(x, y.sharding), tree, placed)
