"""The training step for a minute, with an asynchronous checkpoint or none."""

import tempfile
import time
from typing import Any

import jax

from benchmarks import process, train_jax
from gpt1_jax.train import checkpoint, sharding, step as step_lib


def prepare(
  settings: dict[str, Any],
) -> tuple[process.Measure, dict[str, Any]]:
  program, state, batch = train_jax.start(settings)
  seed = step_lib.place_seed(0, program.mesh)
  folder = tempfile.TemporaryDirectory()
  checkpoints = checkpoint.Checkpoints(folder.name, keep=1, keep_best=False)
  done = 0

  def steps(seconds: float) -> dict[str, float]:
    """As `loop.fit`: metrics are read, one step after the other."""
    nonlocal state, done
    started = time.perf_counter()
    first = done
    while (elapsed := time.perf_counter() - started) < seconds:
      with sharding.use(program.mesh):
        state, metrics = program.train_step(state, batch, seed)
      jax.block_until_ready(metrics)
      done += 1
      if done == first + 1 and settings['save']:
        checkpoints.save(done, state, {})
    return {
      'tokens_per_second': (done - first) * batch['tokens'].size / elapsed
    }

  def measure() -> dict[str, float]:
    out = steps(settings['seconds'])
    checkpoints.wait()
    folder.name  # noqa: B018, the folder lives as long as this function
    return out

  steps(0.01)
  checkpoints.wait()
  return measure, {}


if __name__ == '__main__':
  process.serve(prepare)
