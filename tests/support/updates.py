"""One update of a small model, and comparisons of two."""

import dataclasses
import functools
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from flax import linen as nn

from configs import pretrain as config_file
from gpt1_jax import config as config_lib
from gpt1_jax.config import PretrainConfig
from gpt1_jax.model import models
from gpt1_jax.settings import ModelConfig, OptimSettings
from gpt1_jax.train import optim, pretraining, sharding, step as step_lib
from tests.support import networks
from tests.support.meshes import make_mesh

OPTIM = OptimSettings(
  variant='paper',
  schedule='cosine',
  peak_lr=1e-3,
  warmup=0.0,
  b1=0.9,
  b2=0.999,
  eps=1e-8,
  weight_decay=0.01,
  clip_norm=1.0,
)
# No loop over layers: an operation in the compiled text runs once.
UNROLLED = dataclasses.replace(networks.GPT_CONFIG, unroll=2)
BATCH = {
  'tokens': np.random.default_rng(0).integers(0, 101, (16, 16), np.int32),
  'lm_weights': np.ones((16, 16), np.float32),
}
BATCH['lm_weights'][3, 5:] = 0  # microbatches of unequal weight


def new_state(
  model: models.Model, optimizer: Any, seed: int = 0
) -> step_lib.TrainState:
  """Returns an initial state, its parameters boxed with logical axes."""
  tokens = jnp.zeros((1, 8), jnp.int32)
  key = jax.random.key(seed)
  params = {'gpt': model.init(key, tokens, dropout_key=None)['params']}
  return step_lib.TrainState(
    jnp.zeros([], jnp.int32), params, optimizer.init(params)
  )


def pretrain_config(microbatches: int = 1) -> PretrainConfig:
  """Returns the configuration of ten updates of `GPT_CONFIG` on BATCH."""
  values = config_file.get_config('tiny').to_dict()
  values['train'].update(num_steps=10, microbatches=microbatches, seed=7)
  values['data'].update(path='not read', batch_size=len(BATCH['tokens']))
  # With Adam's own eps (1e-8) a weight whose gradient is nearly zero moves by
  # the sign of a rounding error.
  values['optim'] = dataclasses.asdict(OPTIM) | {'eps': 1e-2}
  return config_lib.parse(PretrainConfig, values)


@functools.cache
def one_update(
  microbatches: int = 1,
  shape: tuple[int, int, int] = (1, 1, 1),
  config: ModelConfig = networks.GPT_CONFIG,
) -> tuple[dict[str, np.ndarray], step_lib.TrainState]:
  """Returns the metrics of one update on BATCH and the state after it."""
  mesh = make_mesh(*shape)
  program = pretraining.build(pretrain_config(microbatches), config, mesh, 10)
  with sharding.use(mesh):
    seed = step_lib.place_seed(7, mesh)
    state, metrics = program.train_step(
      program.new_state(seed), sharding.put_batch(BATCH, mesh), seed
    )
    return jax.device_get((metrics, state))


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


def loss_after_repeating_a_batch(model: models.Model) -> float:
  """Returns the loss after 200 updates on the first two rows of BATCH."""
  optimizer, rate = optim.make_optimizer(
    dataclasses.replace(OPTIM, peak_lr=1e-2), 200
  )
  state = nn.unbox(new_state(model, optimizer))
  step = jax.jit(
    functools.partial(
      step_lib.train_step,
      loss_fn=step_lib.pretrain_loss(model),
      optimizer=optim.Optimizer(optimizer, rate),
      microbatches=1,
      seed=0,
    )
  )
  batch = jax.tree.map(lambda x: jnp.asarray(x[:2]), BATCH)
  for _ in range(200):
    state, metrics = step(state, batch)
  return float(metrics['loss'])
