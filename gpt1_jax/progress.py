"""Progress on stderr: a bar on a terminal, elsewhere a line every 10 seconds.

rich's own bar prints nothing until the end where stderr is no terminal, so the
lines for logs are printed here.
"""

import time

from rich import console, progress

_SECONDS = 10  # between two lines


class Progress:
  """Shows the number of things done, a rate and the time left."""

  def __init__(
    self, label: str, total: int | None, things: str, unit: str, on: bool = True
  ):
    """Starts at zero.

    Args:
      label: name of the activity.
      total: sum of all `done` that `add` will receive; None if unknown.
      things: name of the things counted, such as 'documents'.
      unit: unit of the rate, such as 'MB/s'.
      on: False shows nothing, for all processes but one.
    """
    self._console = console.Console(stderr=True)
    self._bar = progress.Progress(
      progress.TextColumn('{task.description}'),
      progress.BarColumn(),
      progress.TextColumn('{task.fields[note]}'),
      progress.TimeRemainingColumn(compact=True),
      console=self._console,
      disable=not (on and self._console.is_terminal),
    )
    self._task = self._bar.add_task(label, total=total, note='')
    self._label, self._total, self._on = label, total, on
    self._things, self._unit = things, unit
    self._count, self._done, self._units = 0, 0, 0.0
    self._started = self._printed = time.perf_counter()

  def __enter__(self) -> 'Progress':
    self._bar.start()
    return self

  def __exit__(self, *_: object) -> None:
    self._bar.stop()
    self._print('')

  def add(self, count: int, done: int, units: float) -> None:
    """Adds `count` things: `done` of the total, `units` for the rate."""
    self._count += count
    self._done += done
    self._units += units
    now = time.perf_counter()
    self._bar.update(self._task, advance=done, note=self._note(now))
    if not self._console.is_terminal and now - self._printed > _SECONDS:
      self._printed = now
      left = ''
      if self._total and self._done:
        rest = max(self._total - self._done, 0) / self._done
        left = f', {(now - self._started) * rest:.0f} s left'
      self._print(left)

  def _note(self, now: float) -> str:
    rate = self._units / max(now - self._started, 1e-9)
    return f'{self._count:,} {self._things}, {rate:,.1f} {self._unit}'

  def _print(self, left: str) -> None:
    if self._on:
      note = self._note(time.perf_counter())
      self._console.print(f'{self._label}: {note}{left}', highlight=False)
