"""fit(): the only loop, for pretraining and fine-tuning alike."""

import concurrent.futures
import math
from collections.abc import Callable, Iterator
from typing import Any

import jax
import numpy as np

from gpt1_jax.errors import UserError
from gpt1_jax.train import checkpoint, sharding, step as step_lib, telemetry

Batch = dict[str, np.ndarray]


def fit(
  state: step_lib.TrainState,
  train_step: Callable,
  *,
  mesh: jax.sharding.Mesh,
  batch_fn: Callable[[int], Batch],
  num_steps: int,
  log_every: int,
  eval_every: int,
  checkpoint_every: int,
  evaluate: Callable[[Any], dict[str, float]],
  best_metric: str | None,
  checkpoints: checkpoint.Checkpoints,
  meta: dict[str, Any],
  log: telemetry.Telemetry,
) -> tuple[step_lib.TrainState, dict[str, float] | None]:
  """Applies updates until `num_steps` are done.

  Args:
    state: where to start; its step says which batch comes next.
    train_step: jitted (state, batch) → (state, metrics), state donated.
    mesh: in force.
    batch_fn: step → this host's rows of the global batch.
    num_steps: updates in all.
    log_every, eval_every, checkpoint_every: in updates; the first update is
      logged as well (its loss should be near the logarithm of the vocabulary),
      the last is always logged, evaluated and saved.
    evaluate: parameters → scalars.
    best_metric: which of them, larger being better, the best checkpoint is
      kept by; None keeps the latest only.
    checkpoints, meta: where to save, and what goes with the state.
    log: telemetry.

  Returns:
    The state after the last update, and its evaluation (None if no update
    was left to do).

  Raises:
    UserError: the loss or the gradient is not finite.
  """
  first = int(state.step)
  scores = None
  waiting = None  # metrics of the update before, read one step late
  for step, batch in _prefetch(batch_fn, first, num_steps):
    batch = sharding.put_batch(batch, mesh)
    tokens = batch['tokens'].size
    state, metrics = train_step(state, batch)
    done = step + 1
    if waiting:
      _read(*waiting, log, log_every, num_steps)
    waiting = (done, metrics, tokens)
    last = done == num_steps
    evaluating = last or done % eval_every == 0
    saving = last or done % checkpoint_every == 0
    if evaluating or saving:
      _read(*waiting, log, log_every, num_steps)
      waiting = None
    scores = None
    if evaluating:
      scores = evaluate(state.params)
      log.evaluation(done, scores)
    if saving or (evaluating and best_metric):
      # 'best' is what checkpoint.read looks for.
      kept = {'best': scores[best_metric]} if scores and best_metric else None
      log.upload()  # rows up to a checkpoint are never behind it
      checkpoints.save(done, state, meta, kept)
  checkpoints.wait()
  return state, scores


def _read(
  step: int,
  metrics: dict[str, jax.Array],
  tokens: int,
  log: telemetry.Telemetry,
  log_every: int,
  num_steps: int,
) -> None:
  """Brings the metrics of an update to the host; stops if not finite."""
  values = {name: float(x) for name, x in jax.device_get(metrics).items()}
  for name in ('loss', 'grad_norm'):
    if not math.isfinite(values[name]):
      raise UserError(
        f'{name} is {values[name]} at update {step}: the run stops here, the '
        'last checkpoint is intact; try a lower optim.peak_lr, or '
        'model.dtype=float32'
      )
  log.update(step, tokens)
  if step % log_every == 0 or step in (1, num_steps):
    log.train(step, values)


def _prefetch(
  batch_fn: Callable[[int], Batch], first: int, stop: int
) -> Iterator[tuple[int, Batch]]:
  """(step, batch) in order, the next one made while this one is in use."""
  with concurrent.futures.ThreadPoolExecutor(1) as pool:
    following = pool.submit(batch_fn, first) if first < stop else None
    for step in range(first, stop):
      batch = following.result()
      if step + 1 < stop:
        following = pool.submit(batch_fn, step + 1)
      yield step, batch
