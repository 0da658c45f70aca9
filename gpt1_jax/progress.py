"""Shows the progress of a long command: a bar, or a line every 10 s.

rich draws the bar. Where stderr is no terminal, rich prints nothing before the
end, hence the lines.
"""

import time

from rich import console, progress

_SECONDS_BETWEEN_LINES = 10


class Progress:
  """Counts things and shows their rate and the time left; a context."""

  def __init__(
    self, label: str, total: int | None, things: str, unit: str, on: bool = True
  ):
    """Starts at zero.

    Args:
      label: names the work.
      total: sum of `done` over all calls of `add`; None if unknown.
      things: what is counted, such as 'documents'.
      unit: unit of the rate, such as 'MB/s'.
      on: False shows nothing (another process does).
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

  def __enter__(self) -> 'Progress':
    self._bar.start()
    return self

  def __exit__(self, *_: object) -> None:
    self._bar.stop()
    self._console.print(f'{self._label}: {self._note()}', highlight=False)

  def add(self, count: int, done: int, units: float) -> None:
    """Adds `count` things, `done` of the total, and `units` of the rate."""
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
      percent = self._bar.tasks[0].percentage  # 0 if the total is unknown
      if percent:
        seconds = (now - self._start) * (100 / percent - 1)
        note += f', {max(seconds, 0):.0f} s left'
      self._console.print(f'{self._label}: {note}', highlight=False)

  def _note(self) -> str:
    rate = self._units / max(time.perf_counter() - self._start, 1e-9)
    return f'{self._count:,} {self._things}, {rate:,.1f} {self._unit}'
