"""What a stage trains: model, optimiser and update, jitted for a mesh.

Nothing here reads a file or computes: the same `Program` trains on the devices
of this machine and is lowered for devices that are not there.
"""

import dataclasses
from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp

from gpt1_jax import settings
from gpt1_jax.model import models
from gpt1_jax.train import optim, sharding, step

Params = Any  # a tree of float32 arrays


@dataclasses.dataclass(frozen=True)
class Objective:
  """The parameters of a stage and the loss it minimises.

  Attributes:
    model: the network.
    init: key → fresh parameters, boxed with their logical axes.
    loss_fn: see `step.LossFn`.
  """

  model: models.Model
  init: Callable[[jax.Array], Params]
  loss_fn: step.LossFn


@dataclasses.dataclass(frozen=True)
class Program:
  """A stage's training, jitted and not yet compiled.

  Attributes:
    objective: what is trained.
    mesh: the devices; `sharding.use(mesh)` must be in force when a function
      here is called or lowered.
    num_steps: updates of the whole run.
    state: shapes, types and shardings of the state.
    new_state: seed → a fresh state, created sharded.
    train_step: (state, batch, seed) → (state, metrics); the state is donated,
      the seed is a uint32 from `step.place_seed`.
    batch: shapes, types and shardings of a batch; None where they vary.
  """

  objective: Objective
  mesh: jax.sharding.Mesh
  num_steps: int
  state: step.TrainState
  new_state: Callable[[jax.Array], step.TrainState]
  train_step: Any
  batch: Any = None

  @property
  def arguments(self) -> tuple[step.TrainState, Any, jax.ShapeDtypeStruct]:
    """Shapes, types and shardings of the arguments of `train_step`."""
    return self.state, self.batch, seed_shape(self.mesh)

  def lower(self) -> jax.stages.Lowered:
    """Lowers the train step; `.compile()` compiles it."""
    with sharding.use(self.mesh):
      return self.train_step.lower(*self.arguments)


def seed_shape(mesh: jax.sharding.Mesh) -> jax.ShapeDtypeStruct:
  """Returns the shape, type and sharding of a seed."""
  return jax.ShapeDtypeStruct(
    (), jnp.uint32, sharding=sharding.replicated(mesh)
  )


def build(
  objective: Objective,
  optimizer_settings: settings.OptimSettings,
  num_steps: int,
  mesh: jax.sharding.Mesh,
  microbatches: int,
) -> Program:
  """Builds the optimiser, the initial state and the update.

  Args:
    objective: what is trained.
    optimizer_settings: config.optim.
    num_steps: updates of the whole run, for the learning rate.
    mesh: of devices that are there, or of a topology to compile for.
    microbatches: parts of a batch that are computed one after another.
  """
  optimizer, learning_rate = optim.make_optimizer(optimizer_settings, num_steps)

  def new_state(seed: jax.Array) -> step.TrainState:
    params = objective.init(jax.random.key(seed))
    return step.TrainState(
      jnp.zeros([], jnp.int32), params, optimizer.init(params)
    )

  seed = seed_shape(mesh)
  with sharding.use(mesh):
    make_state, shardings = sharding.jit_init(new_state, mesh, seed)
    state = sharding.abstract(jax.eval_shape(make_state, seed), shardings)
  train_step = step.jit_seeded_step(
    objective.loss_fn,
    optimizer,
    learning_rate,
    shardings,
    sharding.batch_sharding(mesh),
    microbatches=microbatches,
  )
  return Program(objective, mesh, num_steps, state, make_state, train_step)
