"""Our fine-tuning step, as `finetune` compiles it, on batches from a file."""

import functools
import time
from typing import Any

import jax
import jax.numpy as jnp

from benchmarks import process, shapes
from configs import finetune as finetune_config
from gpt1_jax import cli
from gpt1_jax.model import models
from gpt1_jax.tasks import initialization, table
from gpt1_jax.train import optim, pretraining, sharding, step as step_lib


def prepare(
  settings: dict[str, Any],
) -> tuple[process.Measure, dict[str, Any]]:
  batches = shapes.read_batches(settings['batches'])
  config = finetune_config.get_config(settings['task']).to_dict()
  task = table.resolve(config['task'])
  parts = pretraining.settings(shapes.config(settings))
  model_config = cli.fill(
    'model',
    models.config_class(parts.model),
    parts.model,
    vocab_size=settings['vocab_size'],
    n_special=3,
  )
  mesh = cli.fill(
    'mesh', sharding.make_mesh, config['mesh'], devices=jax.devices()[:1]
  )
  optimizer, rate = cli.fill(
    'optim', optim.make_optimizer, config['optim'], num_steps=1_000_000
  )
  head_settings = cli.fill('head', initialization.HeadSettings, config['head'])
  model = models.new(model_config)
  head = initialization.new_head(task, head_settings)
  loss_fn = step_lib.finetune_loss(
    model, head, head_settings.lm_coef, head_settings.lm_reduction
  )
  with sharding.use(mesh):
    new_state, shardings = sharding.jit_init(
      functools.partial(initialization.new_state, model, head, optimizer),
      mesh,
      jnp.uint32(0),
    )
    train_step = step_lib.jit_seeded_step(
      loss_fn,
      optimizer,
      rate,
      shardings,
      sharding.batch_sharding(mesh),
      microbatches=1,
    )
    seed = step_lib.place_seed(0, mesh)
    state = new_state(seed)

  def measure() -> dict[str, float]:
    nonlocal state
    started = time.perf_counter()
    with sharding.use(mesh):
      for batch in batches:
        placed = sharding.put_batch(batch, mesh)
        state, metrics = train_step(state, placed, seed)
        jax.block_until_ready(metrics)
    seconds = time.perf_counter() - started
    examples = sum(batch['example_weight'].sum() for batch in batches)
    return {'examples_per_second': float(examples) / seconds}

  measure()
  return measure, {'jax': jax.__version__}


if __name__ == '__main__':
  process.serve(prepare)
