"""One update of a small model, and comparisons of two."""

import dataclasses
import functools
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from configs import pretrain as config_file
from gpt1_jax import config as config_lib
from gpt1_jax.config import PretrainConfig
from gpt1_jax.model import models
from gpt1_jax.settings import Dtype, ModelConfig, OptimSettings
from gpt1_jax.train import (
  gradients,
  optim,
  pretraining,
  program,
  sharding,
  step,
)
from tests.support import networks
from tests.support.meshes import make_mesh

OPTIM = OptimSettings(
  variant='paper', schedule='cosine', peak_lr=1e-3, warmup=0.0, b1=0.9,
  b2=0.999, eps=1e-8, weight_decay=0.01, clip_norm=1.0,
)  # fmt: skip
# No loop over layers: an operation in the compiled text runs once.
UNROLLED = dataclasses.replace(networks.GPT_CONFIG, unroll=2)
BATCH = {
  'tokens': np.random.default_rng(0).integers(0, 101, (16, 16), np.int32),
  'lm_weights': np.ones((16, 16), np.float32),
}
BATCH['lm_weights'][3, 5:] = 0  # microbatches of unequal weight


def new_state(
  model: models.Model, optimizer: Any, seed: int = 0
) -> step.TrainState:
  """Returns an initial state, its parameters boxed with logical axes."""
  tokens = jnp.zeros((1, 8), jnp.int32)
  key = jax.random.key(seed)
  params = {'gpt': model.init(key, tokens, dropout_key=None)['params']}
  zero = jnp.zeros([], jnp.int32)
  return step.TrainState(zero, params, optimizer.init(params))


def pretrain_config(
  microbatches: int = 1,
  shard_optimizer: bool = False,
  reduce_dtype: Dtype = 'float32',
) -> PretrainConfig:
  """Returns the configuration of ten updates of `GPT_CONFIG` on BATCH."""
  values = config_file.get_config('tiny').to_dict()
  values['train'].update(num_steps=10, microbatches=microbatches, seed=7)
  values['mesh'].update(
    shard_optimizer=shard_optimizer, reduce_dtype=reduce_dtype
  )
  values['model']['dtype'] = reduce_dtype
  values['data'].update(path='not read', batch_size=len(BATCH['tokens']))
  # With Adam's own eps (1e-8) a weight whose gradient is nearly zero moves by
  # the sign of a rounding error. With 1, which no clipped gradient exceeds,
  # small gradients are rounded in proportion to the largest.
  values['optim'] = dataclasses.asdict(OPTIM) | {'eps': 1.0}
  return config_lib.parse(PretrainConfig, values)


def build(
  config: ModelConfig,
  mesh: jax.sharding.Mesh,
  microbatches: int = 1,
  shard_optimizer: bool = False,
  reduce_dtype: Dtype = 'float32',
) -> program.Program:
  """Builds the program of ten updates."""
  settings = pretrain_config(microbatches, shard_optimizer, reduce_dtype)
  return pretraining.build(settings, config, mesh, 10)


Updated = tuple[dict[str, np.ndarray], step.TrainState]


def one_update(
  microbatches: int = 1,
  shape: tuple[int, int, int] = (1, 1, 1),
  config: ModelConfig = networks.GPT_CONFIG,
  shard_optimizer: bool = False,
  reduce_dtype: Dtype = 'float32',
) -> Updated:
  """Returns the metrics of one update on BATCH and the state after it.

  Compiles and computes once for equal arguments.
  """
  return _one_update(microbatches, shape, config, shard_optimizer, reduce_dtype)


def recomputed(
  microbatches: int,
  shape: tuple[int, int, int],
  config: ModelConfig,
  shard_optimizer: bool,
  reduce_dtype: Dtype = 'float32',
) -> Updated:
  """Returns the same as `one_update`, compiled and computed anew."""
  mesh = make_mesh(*shape)
  built = build(config, mesh, microbatches, shard_optimizer, reduce_dtype)
  with sharding.use(mesh):
    seed = step.place_seed(7, mesh)
    batch = sharding.put_batch(BATCH, mesh)
    state, metrics = built.train_step(built.new_state(seed), batch, seed)
    return jax.device_get((metrics, state))


# The cache tells arguments apart by how they are given: here, always the same.
_one_update = functools.cache(recomputed)


def assert_same_update(a: Any, b: Any) -> None:
  """Compares two results of `one_update`.

  Loss and norm agree to 2e-6; every parameter and moment to 2e-6 of its
  tensor's largest element.
  """
  for key in ('loss', 'grad_norm'):
    np.testing.assert_allclose(a[0][key], b[0][key], rtol=2e-6)
  assert int(a[1].step) == int(b[1].step) == 1
  for x, y in zip(jax.tree.leaves(a[1]), jax.tree.leaves(b[1]), strict=True):
    np.testing.assert_allclose(x, y, rtol=0, atol=2e-6 * np.abs(y).max())


def assert_same_bits(a: Any, b: Any) -> None:
  """Compares two trees of arrays, bit for bit."""
  for x, y in zip(jax.tree.leaves(a), jax.tree.leaves(b), strict=True):
    np.testing.assert_array_equal(x, y)


def jit_step(
  model: models.Model, optimizer: optim.Optimizer, seed: int = 0, **jit: Any
) -> Any:
  """Jits the pretraining step with a constant seed."""
  train_step = functools.partial(
    step.train_step,
    loss_fn=step.pretrain_loss(model),
    optimizer=optimizer,
    plan=gradients.Plan(),
    seed=seed,
  )
  return jax.jit(train_step, **jit)
