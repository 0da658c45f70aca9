"""Runs the training loop that pretraining and fine-tuning share."""

import concurrent.futures
import contextlib
import dataclasses
import math
from collections.abc import Callable, Generator, Mapping
from typing import Any, Protocol

import jax
import numpy as np

from gpt1_jax import interrupts
from gpt1_jax.errors import RunError, Stopped, UserError
from gpt1_jax.model import models
from gpt1_jax.train import (
  boards,
  checkpoint,
  history,
  hosts,
  lock,
  norms,
  opening,
  profiling,
  program as program_lib,
  pulse,
  saving,
  sharding,
  step as step_lib,
  telemetry,
)
from gpt1_jax.train.checkpoint import Checkpoints
from gpt1_jax.train.run import Run


class Batches(Protocol):
  """Batches indexed by update, so that a resumed run reads the right ones."""

  def batch(self, step: int) -> Mapping[str, Any]:
    """Returns this host's rows of the batch for update `step`."""
    ...


@dataclasses.dataclass(frozen=True)
class TrainingData:
  """The training batches and the evaluation of a run.

  Attributes:
    evaluate: maps parameters to scores on the held-out data.
    about: one line that describes the training data.
    sample: maps parameters to a generated text; None disables sampling.
  """

  batches: Batches
  evaluate: Callable[[Any], dict[str, float]]
  about: str
  sample: Callable[[Any], str] | None = None


def run_training(
  program: program_lib.Program, run: Run, data: TrainingData
) -> tuple[step_lib.TrainState, dict[str, float] | None]:
  """Trains to the end, from scratch or from the last checkpoint.

  Args:
    program: the training program; its mesh must be active (`sharding.use`).
    run: the run directory and what is recorded in it.
    data: the batches and the evaluation.

  Returns:
    The final state and its scores (None if the run was already complete).

  Raises:
    UserError: the last checkpoint does not fit, or the hosts have different
      configurations or data.
    RunError: the loss or the gradient is not finite in more updates than
      train.skip_nonfinite.
    Stopped: a signal asked the run to stop; it has been saved.
  """
  keep_best = run.pace.best_metric is not None
  config = run.header['config']
  project = boards.Project(config['train']['wandb'], run.workdir, config)
  project.check()
  same = {k: v for k, v in run.header.items() if k != 'commit'}
  hosts.agree({f'{name} of the run': value for name, value in same.items()})
  with (
    interrupts.within(interrupts.Phase.RECORD),
    pulse.watched(run.pace.settings.stall_minutes),
    contextlib.closing(
      Checkpoints(run.workdir, keep=run.pace.settings.keep, keep_best=keep_best)
    ) as checkpoints,
  ):
    state = _first_state(program, run, checkpoints)
    history.begin(run, int(state.step))
    opening.say(program, run, data.about, int(state.step))
    span = telemetry.Span(int(state.step), program.num_steps)
    flops = models.flops_per_token(program.objective.model.config)
    with telemetry.Telemetry(
      run.workdir, run.label, span, flops, project
    ) as log:
      return fit(state, program, data, run, checkpoints, log)


def _first_state(
  program: program_lib.Program, run: Run, checkpoints: Checkpoints
) -> step_lib.TrainState:
  """Restores this run's last checkpoint or the forked run's, else initialises.

  Raises:
    UserError: the checkpoint does not fit, or is past the last update.
    Stopped: a signal asked the run to stop before it began.
  """
  latest = checkpoints.latest_intact()
  if latest is not None:
    hosts.say(f'{run.label}: reading checkpoint {latest}')
    state = checkpoints.restore(latest, program.state)
  elif run.fork:
    state = checkpoint.read_state(
      run.fork.run, run.fork.step, program.state, run.meta
    )
  else:
    if pulse.asked():
      raise pulse.stopped('before the first update')
    hosts.say(f'{run.label}: initialising the weights, which compiles')
    seed = step_lib.place_seed(run.seed, program.mesh)
    return program.new_state(seed)
  if int(state.step) > program.num_steps:
    raise UserError(
      f'{run.workdir}: has {int(state.step)} updates, and the configuration '
      f'asks for {program.num_steps}: set config.train.num_steps to '
      f'{int(state.step)} or more, or begin another run from an earlier '
      f'checkpoint with --fork_from={run.workdir}@STEP'
    )
  return state


def fit(
  state: step_lib.TrainState,
  program: program_lib.Program,
  data: TrainingData,
  run: Run,
  checkpoints: Checkpoints,
  log: telemetry.Telemetry,
) -> tuple[step_lib.TrainState, dict[str, float] | None]:
  """Applies updates until `program.num_steps` are done; see `run_training`.

  Ends earlier after `run.pace.patience` evaluations without a better score.
  Always logs the first update: from random weights its loss should be close to
  the logarithm of the vocabulary size; with counts of the text it is lower.
  Always logs, saves and evaluates the last. Saves before it evaluates.
  """
  seed = step_lib.place_seed(run.seed, program.mesh)
  pace, stop = run.pace, program.num_steps
  start = done = int(state.step)
  saver = saving.Saver(checkpoints, run, log, start)
  reports = _Reports(log, pace.settings.skip_nonfinite)

  def evaluate() -> dict[str, float]:
    with log.paused(), log.timed('evaluate'):
      scores = data.evaluate(state.params)
      lock.check(run.workdir)
      if data.sample:
        log.sample(done, data.sample(state.params))
    if pace.best_metric:
      checkpoints.rank(done, scores[pace.best_metric])
    log.evaluation(done, scores)  # last: this row marks the end
    return scores

  scores = None
  try:
    if pulse.asked():
      raise pulse.stopped('before the first update')
    if pace.evaluates(done, stop) and not log.evaluated(done):
      scores = evaluate()
    with (
      contextlib.closing(_prefetch(data.batches, start, stop, log)) as batches,
      contextlib.closing(
        profiling.Profiler(run.profile, run.workdir)
      ) as profiler,
    ):
      for step, rows in batches:
        if 0 < pace.patience <= checkpoints.since_best(step):
          break
        pulse.beat(f'applying update {step + 1}')
        with log.timed('data'):
          batch = sharding.put_batch(rows, program.mesh)
        state, metrics = profiler.apply(
          step + 1, program.train_step, state, batch, seed
        )
        if step == start:
          jax.block_until_ready(metrics)
          log.compiled(step + 1)
        done, scores = step + 1, None
        logged = pace.logs(done, stop)
        sizes = _param_norms(state.params) if logged else None
        reports.add(_Metrics(done, metrics, batch['tokens'].size, sizes))
        if pulse.asked():
          raise pulse.stopped('after this update')
        evaluates = pace.evaluates(done, stop)
        if saver.due(done) or done == stop or (evaluates and pace.best_metric):
          reports.flush()
          with log.timed('save'):
            saver.save(done, state)
        if evaluates:
          reports.flush()
          scores = evaluate()
        pulse.beat(f'reading the batch of update {done + 1}')
  except Stopped:
    if done > start:
      reports.flush()
      saver.save(done, state)
    checkpoints.wait()
    saved = f'after update {done}, which is saved'
    raise pulse.stopped(saved if done else 'before the first update') from None
  checkpoints.wait()
  return state, scores


_param_norms = jax.jit(norms.by_layer)


@dataclasses.dataclass(frozen=True)
class _Metrics:
  """The metrics of an update, still on the devices; norms if logged."""

  step: int
  values: Mapping[str, Any]
  tokens: int
  param_norms: norms.Norms | None = None


class _Reports:
  """Reads metrics one update late, so that devices never wait for the host."""

  def __init__(self, log: telemetry.Telemetry, may_skip: int):
    self._log, self._may_skip, self._skipped = log, may_skip, 0
    self._waiting: _Metrics | None = None

  def add(self, metrics: _Metrics) -> None:
    """Logs the metrics of the previous update."""
    self.flush()
    self._waiting = metrics

  def flush(self) -> None:
    """Logs the metrics that are waiting.

    Raises:
      RunError: the loss or the gradient is not finite, and no more updates may
        be skipped.
    """
    metrics, self._waiting = self._waiting, None
    if metrics is None:
      return
    step, found = metrics.step, dict(metrics.values)
    grad_norms = found.pop('layer_grad_norms', {})
    values = {name: float(x) for name, x in jax.device_get(found).items()}
    self._log.update(step, metrics.tokens)
    for name in ('loss', 'grad_norm'):
      if not math.isfinite(values[name]):
        self._skip(step, f'{name} is {values[name]} at update {step}')
        return
    if metrics.param_norms is not None:
      sizes = norms.named(grad_norms, 'grad_norm')
      sizes |= norms.named(metrics.param_norms, 'param_norm')
      self._log.train(step, values, sizes)

  def _skip(self, step: int, what: str) -> None:
    """Counts an update that was skipped, or ends the run."""
    self._skipped += 1
    if self._skipped > self._may_skip:
      raise RunError(
        f'{what}: the run stops here; the last checkpoint is intact. Try a '
        'lower optim.peak_lr, or model.dtype=float32'
      )
    self._log.skipped(step, f'{what}: skipped', self._skipped, self._may_skip)


def _prefetch(
  batches: Batches, first: int, stop: int, log: telemetry.Telemetry
) -> Generator[tuple[int, Mapping[str, np.ndarray]]]:
  """Yields (step, batch) in order; prepares the next batch in a thread."""
  with concurrent.futures.ThreadPoolExecutor(1) as pool:
    if first < stop:
      following = pool.submit(batches.batch, first)
    for step in range(first, stop):
      with log.timed('data'):
        batch = following.result()
      if step + 1 < stop:
        following = pool.submit(batches.batch, step + 1)
      yield step, batch
