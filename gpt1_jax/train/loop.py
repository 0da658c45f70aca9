"""The one training loop, for pretraining and fine-tuning alike."""

import concurrent.futures
import contextlib
import dataclasses
import math
from collections.abc import Callable, Iterator, Mapping
from typing import Any, Protocol

import jax
import numpy as np

from gpt1_jax.errors import UserError
from gpt1_jax.model import models
from gpt1_jax.train import (
  program as program_lib,
  sharding,
  step as step_lib,
  telemetry,
)
from gpt1_jax.train.checkpoint import Checkpoints
from gpt1_jax.train.run import Run


class Batches(Protocol):
  """Batches as a function of the update, so that resuming needs no history."""

  def batch(self, step: int) -> Mapping[str, Any]:
    """Returns this host's rows of the batch that update `step` takes."""
    ...


@dataclasses.dataclass(frozen=True)
class TrainingData:
  """What a run trains on and how it is scored.

  Attributes:
    batches: training batches.
    evaluate: parameters → scores of the held-out data.
  """

  batches: Batches
  evaluate: Callable[[Any], dict[str, float]]


def run_training(
  program: program_lib.Program, run: Run, data: TrainingData
) -> tuple[step_lib.TrainState, dict[str, float] | None]:
  """Trains a run to its end, from the start or from its last checkpoint.

  Args:
    program: what is trained; its mesh must be in force.
    run: where the run lies on disk and how often it logs and saves.
    data: what it trains on.

  Returns:
    The last state, and its scores (None if no update was left to do).

  Raises:
    UserError: the loss or the gradient is not finite, or the last checkpoint
      does not fit.
  """
  seed = step_lib.place_seed(run.seed, program.mesh)
  keep_best = run.pace.best_metric is not None
  with contextlib.closing(
    Checkpoints(run.workdir, keep=run.pace.keep, keep_best=keep_best)
  ) as checkpoints:
    if checkpoints.latest_step is None:
      state = program.new_state(seed)
    else:
      state = checkpoints.restore(checkpoints.latest_step, program.state)
    span = telemetry.Span(int(state.step), program.num_steps)
    flops = models.flops_per_token(program.objective.model.config)
    with telemetry.Telemetry(run.workdir, run.label, span, flops) as log:
      return fit(state, program, data, run, checkpoints, log)


def fit(
  state: step_lib.TrainState,
  program: program_lib.Program,
  data: TrainingData,
  run: Run,
  checkpoints: Checkpoints,
  log: telemetry.Telemetry,
) -> tuple[step_lib.TrainState, dict[str, float] | None]:
  """Applies updates until `program.num_steps` are done.

  The first update is logged as well: its loss should be near the logarithm of
  the vocabulary. The last is always logged, evaluated and saved. Metrics are
  read one update late, so that the host never makes a device wait.

  Returns:
    The state after the last update, and its scores (None if no update was left
    to do).

  Raises:
    UserError: the loss or the gradient is not finite.
  """
  seed = step_lib.place_seed(run.seed, program.mesh)
  pace, num_steps = run.pace, program.num_steps
  scores = None
  waiting = None  # metrics of the update before
  for step, rows in _prefetch(data.batches, int(state.step), num_steps):
    batch = sharding.put_batch(rows, program.mesh)
    state, metrics = program.train_step(state, batch, seed)
    if waiting:
      _read(waiting, log, pace.log_every, num_steps)
    done = step + 1
    waiting = _Metrics(done, metrics, batch['tokens'].size)
    last = done == num_steps
    evaluating = last or done % pace.eval_every == 0
    saving = last or done % pace.checkpoint_every == 0
    if evaluating or saving:
      _read(waiting, log, pace.log_every, num_steps)
      waiting = None
    scores = None
    if evaluating:
      scores = data.evaluate(state.params)
      log.evaluation(done, scores)
    best = scores[pace.best_metric] if scores and pace.best_metric else None
    if saving or best is not None:
      log.upload()  # before the checkpoint, so that rows are never behind it
      checkpoints.save(done, state, run.meta, best)
  checkpoints.wait()
  return state, scores


@dataclasses.dataclass(frozen=True)
class _Metrics:
  """Metrics of an update that are still on the devices."""

  step: int
  values: dict[str, jax.Array]
  tokens: int


def _read(
  metrics: _Metrics, log: telemetry.Telemetry, log_every: int, num_steps: int
) -> None:
  """Logs the metrics of an update; stops the run if they are not finite."""
  fetched = jax.device_get(metrics.values)
  values = {name: float(x) for name, x in fetched.items()}
  for name in ('loss', 'grad_norm'):
    if not math.isfinite(values[name]):
      raise UserError(
        f'{name} is {values[name]} at update {metrics.step}: the run stops '
        'here, the last checkpoint is intact; try a lower optim.peak_lr, or '
        'model.dtype=float32'
      )
  log.update(metrics.step, metrics.tokens)
  if metrics.step % log_every == 0 or metrics.step in (1, num_steps):
    log.train(metrics.step, values)


def _prefetch(
  batches: Batches, first: int, stop: int
) -> Iterator[tuple[int, Mapping[str, np.ndarray]]]:
  """Yields (step, batch) in order, and makes the next one meanwhile."""
  with concurrent.futures.ThreadPoolExecutor(1) as pool:
    if first < stop:
      following = pool.submit(batches.batch, first)
    for step in range(first, stop):
      batch = following.result()
      if step + 1 < stop:
        following = pool.submit(batches.batch, step + 1)
      yield step, batch
