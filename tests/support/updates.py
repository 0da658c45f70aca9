"""One update of a small model, and comparisons of two."""

import dataclasses
import functools
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from flax import linen as nn

from gpt1_jax.model import models
from gpt1_jax.train import optim, pretraining, sharding, step as step_lib
from tests.support import networks
from tests.support.meshes import make_mesh

OPTIM = {
  'variant': 'paper',
  'schedule': 'cosine',
  'peak_lr': 1e-3,
  'warmup': 0.0,
  'b1': 0.9,
  'b2': 0.999,
  'eps': 1e-8,
  'weight_decay': 0.01,
  'clip_norm': 1.0,
  'num_steps': 10,
}
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


def settings(microbatches: int = 1) -> pretraining.Settings:
  """Returns the settings of a run of ten updates on BATCH."""
  return pretraining.Settings(
    pretraining.TrainSettings(
      num_steps=10,
      num_epochs=0.0,
      log_every=1,
      eval_every=10,
      checkpoint_every=10,
      keep=1,
      microbatches=microbatches,
      seed=7,
    ),
    pretraining.DataSettings(
      path='', batch_size=len(BATCH['tokens']), seed=0, cross_documents=True
    ),
    model={},
    # With Adam's own eps (1e-8) a weight whose gradient is nearly zero moves
    # by the sign of a rounding error.
    optim={k: v for k, v in OPTIM.items() if k != 'num_steps'} | {'eps': 1e-2},
    mesh={},
  )


@functools.cache
def one_update(
  microbatches: int = 1,
  shape: tuple[int, int, int] = (1, 1, 1),
  config: models.Config = networks.GPT_CONFIG,
) -> tuple[dict[str, np.ndarray], step_lib.TrainState]:
  """Returns the metrics of one update on BATCH and the state after it."""
  mesh = make_mesh(*shape)
  program = pretraining.build(settings(microbatches), config, mesh, 10)
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
    **{**OPTIM, 'peak_lr': 1e-2, 'num_steps': 200}
  )
  state = nn.unbox(new_state(model, optimizer))
  step = jax.jit(
    functools.partial(
      step_lib.train_step,
      loss_fn=step_lib.pretrain_loss(model),
      optimizer=optimizer,
      rate=rate,
      microbatches=1,
      seed=0,
    )
  )
  batch = jax.tree.map(lambda x: jnp.asarray(x[:2]), BATCH)
  for _ in range(200):
    state, metrics = step(state, batch)
  return float(metrics['loss'])
