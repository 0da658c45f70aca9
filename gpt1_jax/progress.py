"""How far a command has come: a bar on a terminal, else a line now and then."""

import time

from rich import console, progress


class Progress:
  """How many things are done, a rate and the time left.

  A bar where stderr is a terminal; else a line every 10 s, and one at the end.
  """

  def __init__(
    self, label: str, total: int | None, things: str, unit: str, on: bool = True
  ):
    """Starts at nothing.

    Args:
      label: what is being done.
      total: of what `add` calls `done`; None: unknown.
      things: what is counted, such as 'documents'.
      unit: of the rate, such as 'MB/s'.
      on: False: silent (another process speaks).
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
    self._started = self._said = time.perf_counter()

  def __enter__(self) -> 'Progress':
    self._bar.start()
    return self

  def __exit__(self, *_) -> None:
    self._bar.stop()
    self._say('')

  def add(self, count: int, done: int, units: float) -> None:
    """`count` more things: `done` of the total, `units` for the rate."""
    self._count += count
    self._done += done
    self._units += units
    now = time.perf_counter()
    self._bar.update(self._task, advance=done, note=self._note(now))
    if not self._console.is_terminal and now - self._said > 10:
      self._said = now
      left = ''
      if self._total and self._done:
        rest = max(self._total - self._done, 0) / self._done
        left = f', {(now - self._started) * rest:.0f} s left'
      self._say(left)

  def _note(self, now: float) -> str:
    rate = self._units / max(now - self._started, 1e-9)
    return f'{self._count:,} {self._things}, {rate:,.1f} {self._unit}'

  def _say(self, left: str) -> None:
    if not self._on:
      return
    note = self._note(time.perf_counter())
    self._console.print(f'{self._label}: {note}{left}', highlight=False)
