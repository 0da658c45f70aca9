"""Shows the progress of a long command: a bar, or a line every 10 s.

rich draws the bar. If stderr is not a terminal, rich prints nothing until the
end, so lines are printed instead.
"""

import time

from rich import console, progress

_SECONDS_BETWEEN_LINES = 10


class Progress:
  """Context manager that shows a count, its rate and the time left."""

  def __init__(
    self, label: str, total: int | None, things: str, unit: str, on: bool = True
  ):
    """Starts at zero.

    Args:
      total: sum of `done` over all calls to `add`; None if unknown.
      unit: unit of the rate, such as 'MB/s'.
      on: False shows nothing; only the first process of a job shows progress.
    """
    self._console = console.Console(stderr=True, quiet=not on)
    self._bar = progress.Progress(
      progress.TextColumn('{task.description}'),
      progress.BarColumn(),
      progress.TextColumn('{task.fields[note]}'),
      progress.TimeRemainingColumn(compact=True),
      console=self._console,
      disable=not (on and self._console.is_terminal),
    )
    self._task = self._bar.add_task(label, total=total, note='')
    self._label, self._things, self._unit = label, things, unit
    self._count, self._units = 0, 0.0
    self._start = self._last_line = time.perf_counter()
    self._before = 0.0  # percent done before the start of the clock

  def __enter__(self) -> 'Progress':
    self._bar.start()
    return self

  def __exit__(self, *_: object) -> None:
    self._bar.stop()
    self._console.print(f'{self._label}: {self._note()}', highlight=False)

  def skip(self, count: int, done: int) -> None:
    """Advances by a part, such as one that compiles, that no rate includes."""
    self._count += count
    self._bar.update(self._task, advance=done, note=self._note())
    self._before = self._bar.tasks[0].percentage
    self._start = time.perf_counter()

  def add(self, count: int, done: int, units: float) -> None:
    """Advances the bar.

    Args:
      done: amount to add towards `total`.
      units: amount to add to what the rate counts, such as megabytes.
    """
    self._count += count
    self._units += units
    note = self._note()
    self._bar.update(self._task, advance=done, note=note)
    now = time.perf_counter()
    if (
      not self._console.is_terminal
      and now - self._last_line > _SECONDS_BETWEEN_LINES
    ):
      self._last_line = now
      percent = self._bar.tasks[0].percentage
      if percent > self._before:  # else the total is unknown
        seconds = (now - self._start) / (percent - self._before)
        seconds *= 100 - percent
        note += f', {max(seconds, 0):.0f} s left'
      self._console.print(f'{self._label}: {note}', highlight=False)

  def _note(self) -> str:
    note = f'{self._count:,} {self._things}'
    if self._units:
      rate = self._units / max(time.perf_counter() - self._start, 1e-9)
      digits = 0 if rate >= 100 else 1
      note += f', {rate:,.{digits}f} {self._unit}'
    return note
