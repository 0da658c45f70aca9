"""Decides when a run saves, and reports the time each save takes."""

import time

import jax
import jax.numpy as jnp
import numpy as np

from gpt1_jax.errors import RunError
from gpt1_jax.train import hosts, lock
from gpt1_jax.train.checkpoint import Checkpoints
from gpt1_jax.train.run import Run
from gpt1_jax.train.step import TrainState
from gpt1_jax.train.telemetry import Telemetry


class Saver:
  """Saves every so many updates and every so many minutes."""

  def __init__(
    self, checkpoints: Checkpoints, run: Run, log: Telemetry, start: int
  ):
    """Starts the clock.

    Args:
      start: number of updates done.
    """
    self._checkpoints, self._run, self._log = checkpoints, run, log
    self._clock = _Clock(run.pace.settings.checkpoint_minutes * 60, start)
    self._last, self._saved = start, time.monotonic()

  def due(self, done: int) -> bool:
    """Returns True on every host if a save is due after `done` updates."""
    by_count = done % self._run.pace.checkpoint_every == 0
    return self._clock.due(done) or by_count

  def save(self, done: int, state: TrainState) -> None:
    """Starts a save unless `done` is saved; reports the time it took.

    Training waits while the state is copied off the devices, and for the
    previous save if it is not on disk yet. The rest runs during training.

    Raises:
      RunError: the state is not finite, or the run directory was moved or
        removed; it is not saved.
    """
    if done == self._last:
      return
    lock.check(self._run.workdir)
    if not _is_finite(state):
      raise RunError(
        f'the parameters or moments after update {done} are not finite: they '
        'are not saved, and the run stops here; the last checkpoint is intact. '
        'Try a lower optim.peak_lr'
      )
    self._last, started = done, time.monotonic()
    self._log.upload()  # before the checkpoint, so that no row up to it is lost
    self._checkpoints.save(done, state, self._run.meta)
    ended = time.monotonic()
    self._log.saved(done, ended - started, ended - self._saved)
    self._saved = ended
    self._clock.restart(done)


@jax.jit
def _is_finite(state: TrainState) -> jax.Array:
  """Returns True if every parameter and moment is finite."""
  return jnp.stack(
    [
      jnp.isfinite(x).all()
      for x in jax.tree.leaves(state)
      if jnp.issubdtype(x.dtype, jnp.inexact)
    ]
  ).all()


class _Clock:
  """Tells all hosts, at the same update, that host 0's clock has run out.

  Host 0 also tells the others how many updates to wait before asking again, so
  that they rarely ask.
  """

  def __init__(self, seconds: float, start: int):
    self._seconds = seconds
    self.restart(start)

  def restart(self, done: int) -> None:
    """Starts a new period after `done` updates."""
    self._began, self._first = time.monotonic(), done
    self._ask_at = done + 1

  def due(self, done: int) -> bool:
    """Returns True on every host if the period is over."""
    if not self._seconds or done < self._ask_at:
      return False
    wait = int(hosts.from_first(np.int32(self._updates_left(done))))
    self._ask_at = done + max(wait, 1)
    return wait == 0

  def _updates_left(self, done: int) -> int:
    """Returns how many updates fit into half of the remaining time.

    Half, because the first updates are slower: they compile.
    """
    passed = time.monotonic() - self._began
    if passed >= self._seconds:
      return 0
    if jax.process_count() == 1:
      return 1
    rate = (done - self._first) / max(passed, 1e-9)
    return min(max(int(rate * (self._seconds - passed) / 2), 1), 2**20)
