"""Splits the time of a run: data, step, evaluate, save."""

import contextlib
import time
from collections.abc import Iterator

_TIMED = ('data', 'evaluate', 'save')


class TimeSplit:
  """Counts the seconds that training spends on each activity.

  The step is the rest: the host runs ahead of the devices, and waits for them
  when it reads metrics.
  """

  def __init__(self) -> None:
    self.restart()

  def restart(self) -> None:
    """Starts a new period."""
    self._began = time.perf_counter()
    self._spent = dict.fromkeys(_TIMED, 0.0)

  @contextlib.contextmanager
  def timed(self, name: str) -> Iterator[None]:
    """Counts the time within the context as 'data', 'evaluate' or 'save'."""
    began = time.perf_counter()
    yield
    self._spent[name] += time.perf_counter() - began

  def take(self) -> dict[str, float]:
    """Returns the seconds by activity, and starts a new period."""
    whole, spent = time.perf_counter() - self._began, self._spent
    self.restart()
    return {**spent, 'step': whole - sum(spent.values())}
