"""Our training step, as `pretrain` compiles it, on random tokens."""

import time
from typing import Any

import jax
import numpy as np

from benchmarks import process, shapes
from gpt1_jax import cli
from gpt1_jax.train import pretraining, sharding, step as step_lib


def prepare(
  settings: dict[str, Any],
) -> tuple[process.Measure, dict[str, Any]]:
  program, state, batch = start(settings)
  seed = step_lib.place_seed(0, program.mesh)
  steps = settings['steps']

  def measure() -> dict[str, float]:
    nonlocal state
    started = time.perf_counter()
    for _ in range(steps):
      state, metrics = program.train_step(state, batch, seed)
      jax.block_until_ready(metrics)
    seconds = (time.perf_counter() - started) / steps
    return {
      'tokens_per_second': batch['tokens'].size / seconds,
      'seconds': seconds,
      **process.memory_bytes(),
    }

  with sharding.use(program.mesh):
    measure()
  return in_mesh(program, measure), {'jax': jax.__version__}


def start(settings: dict[str, Any]) -> tuple[pretraining.Program, Any, Any]:
  """The program of one device, a fresh state and a batch on it."""
  config = shapes.config(settings)
  parts = pretraining.settings(config)
  model = pretraining.model_config(parts, settings['vocab_size'])
  mesh = cli.fill(
    'mesh', sharding.make_mesh, parts.mesh, devices=jax.devices()[:1]
  )
  program = pretraining.build(parts, model, mesh, num_steps=1_000_000)
  tokens = shapes.tokens(settings)
  weights = np.ones(tokens.shape, np.float32)
  weights[:, 0] = 0
  with sharding.use(mesh):
    state = program.new_state(step_lib.place_seed(0, mesh))
    batch = sharding.put_batch({'tokens': tokens, 'lm_weights': weights}, mesh)
  return program, state, batch


def in_mesh(
  program: pretraining.Program, measure: process.Measure
) -> process.Measure:
  """`measure` with the program's mesh in force."""

  def inside() -> dict[str, float]:
    with sharding.use(program.mesh):
      return measure()

  return inside


if __name__ == '__main__':
  process.serve(prepare)
