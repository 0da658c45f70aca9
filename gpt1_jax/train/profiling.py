"""Traces some updates of a run for XProf."""

import dataclasses
import sys
from collections.abc import Callable
from typing import Any

import jax

from gpt1_jax import storage
from gpt1_jax.errors import UserError
from gpt1_jax.train import uploads

FOLDER = 'profile'  # in the run directory


@dataclasses.dataclass(frozen=True)
class Window:
  """The range of updates to trace.

  Attributes:
    first: number of the first update; update 1 compiles.
  """

  first: int
  steps: int

  @property
  def last(self) -> int:
    """The number of the last update."""
    return self.first + self.steps - 1


def parse(text: str | None) -> Window | None:
  """Parses --profile=START:STEPS; None if it is not set.

  Raises:
    UserError: the value is not two positive numbers.
  """
  if not text:
    return None
  first, _, steps = text.partition(':')
  if first.isdecimal() and steps.isdecimal() and min(int(first), int(steps)):
    return Window(int(first), int(steps))
  raise UserError(
    f'--profile={text}: give START:STEPS, such as 10:5 for updates 10 to 14'
  )


class Profiler:
  """Applies updates, and traces a window of them to WORKDIR/profile."""

  def __init__(self, window: Window | None, workdir: str):
    self._window, self._workdir = window, workdir
    self._active = False

  def apply(self, number: int, update: Callable[..., Any], *args: Any) -> Any:
    """Calls `update(*args)`, which is update `number` of the run."""
    if self._window and number == self._window.first:
      self._start()
    if not self._active:
      return update(*args)
    with jax.profiler.StepTraceAnnotation('train', step_num=number):
      out = update(*args)
    assert self._window
    if number == self._window.last:
      jax.block_until_ready(out)
      self.close()
    return out

  def _start(self) -> None:
    """Starts the trace in the run directory, or locally if that is remote."""
    self._buffer = uploads.UploadBuffer(storage.path(self._workdir) / FOLDER)
    jax.profiler.start_trace(self._buffer.folder)
    self._active = True

  def close(self) -> None:
    """Writes the trace if one is running."""
    if not self._active:
      return
    self._active = False
    jax.profiler.stop_trace()
    self._buffer.close()
    if jax.process_index() == 0:
      target = storage.path(self._workdir) / FOLDER
      print(f'trace of updates: {target}', file=sys.stderr, flush=True)
