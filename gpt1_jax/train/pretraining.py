"""Pretraining as a function of a configuration and a mesh.

Nothing here reads a file or runs a computation: what `pretrain` trains with is
what ahead-of-time compilation lowers, for devices that are not there.
"""

import dataclasses
import functools
from collections.abc import Callable, Mapping
from typing import Any

import jax
import jax.numpy as jnp

from gpt1_jax import cli
from gpt1_jax.model import models
from gpt1_jax.train import optim as optim_lib, sharding, step as step_lib


@dataclasses.dataclass(frozen=True)
class TrainSettings:
  """config.train of pretraining."""

  num_steps: int
  num_epochs: float
  log_every: int
  eval_every: int
  checkpoint_every: int
  keep: int
  microbatches: int
  seed: int


@dataclasses.dataclass(frozen=True)
class DataSettings:
  """config.data of pretraining."""

  path: str
  batch_size: int
  seed: int
  cross_documents: bool


@dataclasses.dataclass(frozen=True)
class Settings:
  """A configuration of pretraining, its sections as their consumers want them.

  Attributes:
    train, data: checked.
    model, optim, mesh: for `model_config`, `build` and `sharding.make_mesh`.
  """

  train: TrainSettings
  data: DataSettings
  model: dict[str, Any]
  optim: dict[str, Any]
  mesh: dict[str, Any]


@dataclasses.dataclass(frozen=True)
class Program:
  """What training runs, jitted and not yet compiled.

  Attributes:
    model: the network.
    mesh: what all is laid out on; `sharding.use` must have put it in force
      when a function here is called or lowered.
    new_state: seed → state, born sharded.
    train_step: (state, batch, seed) → (state, metrics), the state donated;
      the seed is uint32, from `step.place_seed`.
    arguments: what `train_step` takes: shapes, types and shardings.
  """

  model: models.Model
  mesh: jax.sharding.Mesh
  new_state: Callable[[jax.Array], step_lib.TrainState]
  train_step: Callable[..., tuple[step_lib.TrainState, dict[str, jax.Array]]]
  arguments: tuple[step_lib.TrainState, dict[str, Any], Any]

  def lower(self) -> Any:
    """The train step, lowered for the mesh; `.compile()` compiles it."""
    with sharding.use(self.mesh):
      return self.train_step.lower(*self.arguments)


def settings(config: Mapping[str, Any]) -> Settings:
  """Takes a configuration apart.

  Raises:
    UserError: a section or a key is missing, unknown or out of range.
  """
  parts = cli.sections(config, 'model', 'optim', 'train', 'data', 'mesh')
  train = cli.fill('train', TrainSettings, parts.pop('train'))
  data = cli.fill('data', DataSettings, parts.pop('data'))
  every = ('log_every', 'eval_every', 'checkpoint_every', 'keep')
  cli.positive('train', vars(train), *every, 'microbatches')
  cli.positive('data', vars(data), 'batch_size')
  return Settings(train, data, **parts)


def model_config(settings: Settings, vocab_size: int) -> models.Config:
  """The model of a configuration, for a tokenizer of `vocab_size` entries.

  Raises:
    UserError: there is no such model.
  """
  return cli.fill(
    'model',
    models.config_class(settings.model),
    settings.model,
    vocab_size=vocab_size,
    n_special=0,
  )


def build(
  settings: Settings,
  config: models.Config,
  mesh: jax.sharding.Mesh,
  num_steps: int,
) -> Program:
  """Builds model, optimiser, state and step.

  Args:
    settings: of the run.
    config: from `model_config`.
    mesh: of devices that are there, or of a topology to compile for.
    num_steps: updates in all, for the learning rate.

  Raises:
    UserError: the optimiser cannot be, or the mesh does not divide the batch
      or the model.
  """
  optimizer, rate = cli.fill(
    'optim', optim_lib.make_optimizer, settings.optim, num_steps=num_steps
  )
  batch_size, microbatches = (
    settings.data.batch_size,
    settings.train.microbatches,
  )
  sharding.check_divides(
    mesh,
    batch_size,
    microbatches,
    **config.divided,
  )
  model = models.new(config)
  seed = jax.ShapeDtypeStruct(
    (), jnp.uint32, sharding=sharding.replicated(mesh)
  )
  with sharding.use(mesh):
    make_state, shardings = sharding.jit_init(
      functools.partial(new_state, model, optimizer), mesh, seed
    )
    state = sharding.abstract(jax.eval_shape(make_state, seed), shardings)
  rows = sharding.batch_sharding(mesh)
  train_step = step_lib.jit_seeded_step(
    step_lib.pretrain_loss(model),
    optimizer,
    rate,
    shardings,
    rows,
    microbatches=microbatches,
  )
  batch = {
    name: jax.ShapeDtypeStruct((batch_size, config.n_ctx), dtype, sharding=rows)
    for name, dtype in (('tokens', jnp.int32), ('lm_weights', jnp.float32))
  }
  return Program(model, mesh, make_state, train_step, (state, batch, seed))


def new_state(
  model: models.Model, optimizer: Any, seed: jax.Array | int
) -> step_lib.TrainState:
  """Fresh parameters (boxed with their logical axes) and optimiser state."""
  tokens_BT = jnp.zeros((1, model.config.n_ctx), jnp.int32)
  variables = model.init(jax.random.key(seed), tokens_BT, dropout_key=None)
  params = {'gpt': variables['params']}
  return step_lib.TrainState(
    jnp.zeros([], jnp.int32), params, optimizer.init(params)
  )
