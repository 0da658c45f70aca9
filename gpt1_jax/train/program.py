"""Builds a stage's training program: model, optimiser and jitted update.

This module reads no files and runs no computation. A `Program` can train on
this machine's devices, or be lowered for devices that are not attached.
"""

import dataclasses
from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp

from gpt1_jax import settings
from gpt1_jax.model import models
from gpt1_jax.train import gradients, optim, sharding, step


@dataclasses.dataclass(frozen=True)
class Objective:
  """The parameters of a stage and the loss it minimises.

  Attributes:
    init: maps a key to fresh parameters, boxed with their logical axes.
    loss_fn: see `step.LossFn`.
    loss: what the loss is, in words.
  """

  model: models.Model
  init: Callable[[jax.Array], step.Params]
  loss_fn: step.LossFn
  loss: str = 'nats per token'


@dataclasses.dataclass(frozen=True)
class Program:
  """A stage's training program, jitted but not yet compiled.

  Attributes:
    mesh: the devices; call and lower these functions within
      `sharding.use(mesh)`.
    state: shapes, dtypes and shardings of the state.
    new_state: maps a seed to a fresh, sharded state.
    train_step: maps (state, batch, seed) to (state, metrics). The state is
      donated; the seed is a uint32 from `step.place_seed`.
    batch: shapes, dtypes and shardings of a batch; None if they vary.
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
    """Shapes, dtypes and shardings of the arguments to `train_step`."""
    return self.state, self.batch, seed_shape(self.mesh)

  def lower(self) -> jax.stages.Lowered:
    """Lowers the train step; `.compile()` compiles it."""
    with sharding.use(self.mesh):
      return self.train_step.lower(*self.arguments)


def seed_shape(mesh: jax.sharding.Mesh) -> jax.ShapeDtypeStruct:
  """Returns the shape, dtype and sharding of a seed."""
  return jax.ShapeDtypeStruct(
    (), jnp.uint32, sharding=sharding.replicated(mesh)
  )


def build(
  objective: Objective,
  optimizer_settings: settings.OptimSettings,
  num_steps: int,
  mesh: jax.sharding.Mesh,
  train: settings.TrainSettings,
  sums: settings.MeshSettings,
) -> Program:
  """Builds the optimiser, the initial state and the update.

  Args:
    mesh: attached devices, or a topology to compile for.
    sums: how the devices of the mesh sum and divide gradients.
  """
  optimizer = optim.make_optimizer(optimizer_settings, num_steps)

  def new_state(seed: jax.Array) -> step.TrainState:
    params = objective.init(jax.random.key(seed))
    return step.TrainState(
      jnp.zeros([], jnp.int32), params, optimizer.transform.init(params)
    )

  def place(state: Any, shardings: Any) -> Any:
    if not sums.shard_optimizer:
      return shardings
    moments = jax.tree.map(
      sharding.scattered, state.opt_state, shardings.opt_state
    )
    return shardings.replace(opt_state=moments)

  seed = seed_shape(mesh)
  with sharding.use(mesh):
    make_state, shardings = sharding.jit_init(
      new_state, mesh, seed, place=place
    )
    state = sharding.abstract(jax.eval_shape(make_state, seed), shardings)
  scattered = None
  if sums.shard_optimizer and mesh.shape['data'] > 1:
    scattered = jax.tree.map(sharding.scattered, state.params, shardings.params)
  train_step = step.jit_seeded_step(
    objective.loss_fn,
    optimizer,
    shardings,
    sharding.batch_sharding(mesh),
    plan=gradients.Plan(train.microbatches, scattered, sums.reduce_dtype),
    skip_nonfinite=train.skip_nonfinite > 0,
  )
  return Program(objective, mesh, num_steps, state, make_state, train_step)
