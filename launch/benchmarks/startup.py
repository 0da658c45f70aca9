"""Starting anew: from the process to the first training step.

One repetition: how long this process took until its first step could run,
with what JAX compiled kept in a folder, empty or filled by the start before.
"""

import itertools
import time
from typing import Any

import jax

from benchmarks import process, train_jax
from gpt1_jax.train import sharding, step as step_lib


def prepare(
  settings: dict[str, Any],
) -> tuple[process.Measure, dict[str, Any]]:
  jax.config.update('jax_compilation_cache_dir', settings['cache'])
  program, state, batch = train_jax.start(settings)
  seed = step_lib.place_seed(0, program.mesh)

  def measure() -> dict[str, float]:
    nonlocal state
    ends = []
    with sharding.use(program.mesh):
      for _ in range(4):
        state, metrics = program.train_step(state, batch, seed)
        jax.block_until_ready(metrics)
        ends.append(time.time())
    # The first step itself is as long as the shortest of the next.
    step = min(end - start for start, end in itertools.pairwise(ends))
    return {'seconds': ends[0] - settings['started'] - step}

  return measure, {'jax': jax.__version__}


if __name__ == '__main__':
  process.serve(prepare)
