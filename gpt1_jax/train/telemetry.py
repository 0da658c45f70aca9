"""Writes metrics.jsonl and draws its curves, and prints progress.

A resumed run never has duplicate rows: rows past the checkpoint are dropped
when the run resumes, and are written again.

Objects in a bucket cannot be appended to. For a run in a bucket, rows and
events are written to a local folder, whose files are uploaded whole before each
checkpoint, at the end, and once a minute. A killed run therefore loses only
rows of updates that it will repeat (and possibly the last TensorBoard events).
"""

import contextlib
import dataclasses
import json
import sys
import time
from collections.abc import Iterator, Mapping
from types import TracebackType
from typing import Any

import jax
import numpy as np
from rich import console, progress

from gpt1_jax import storage
from gpt1_jax.train import chips, hosts, time_split, uploads
from gpt1_jax.train.boards import Boards, Project

METRICS = 'metrics.jsonl'
SAMPLES = 'samples.txt'
Row = dict[str, Any]  # a row of metrics.jsonl: 'step' (an integer) and metrics
_UPLOAD_EVERY = 60.0  # seconds; buckets limit writes per object to one a second


@dataclasses.dataclass(frozen=True)
class Span:
  """The range of updates that this process applies.

  Attributes:
    start: number of updates done before.
    stop: total number of updates.
  """

  start: int
  stop: int


class Telemetry:
  """Writes metrics and shows progress, on process 0 only."""

  def __init__(
    self,
    workdir: str,
    label: str,
    span: Span,
    flops_per_token: float,
    project: Project | None = None,
  ):
    """Opens the run's files and drops rows past `span.start`.

    Args:
      workdir: run directory.
      label: name of the run on the progress line.
      span: the updates to come.
      flops_per_token: model FLOPs per token (`models.flops_per_token`).
      project: the project of Weights & Biases, if any.
    """
    self._on = jax.process_index() == 0
    self._flops_per_token = flops_per_token
    self._peak = peak_flops()
    self._clock = time.perf_counter()
    self._tokens = 0
    self._compiled = False
    self._evaluated: set[int] = set()
    self._split = time_split.TimeSplit()
    self.timed = self._split.timed
    if not self._on:
      return
    self._buffer = uploads.UploadBuffer(workdir)
    self._uploaded = time.perf_counter()
    path = self._buffer.folder / METRICS
    rows = read_rows(storage.path(workdir) / METRICS)
    rows = [row for row in rows if row['step'] <= span.start]
    self._evaluated = {row['step'] for row in rows if _is_evaluation(row)}
    storage.write_text(
      path, ''.join(storage.to_json(row) + '\n' for row in rows)
    )
    self._file = path.open('a', encoding='utf-8')
    self._boards = Boards(self._buffer.folder, span.start, project)
    self._console = console.Console(stderr=True)
    self._bar = progress.Progress(
      progress.TextColumn('{task.description}'),
      progress.BarColumn(),
      progress.MofNCompleteColumn(),
      progress.TextColumn('{task.fields[note]}'),
      progress.TimeRemainingColumn(compact=True),
      console=self._console,
      disable=not self._console.is_terminal,
      redirect_stdout=False,
      redirect_stderr=False,
    )
    self._task = self._bar.add_task(
      label, total=span.stop, completed=span.start, note=''
    )
    self._span, self._label = span, label
    self._started, self._first = time.perf_counter(), span.start
    self._bar.start()

  def __enter__(self) -> 'Telemetry':
    return self

  def __exit__(
    self,
    kind: type[BaseException] | None,
    error: BaseException | None,
    trace: TracebackType | None,
  ) -> None:
    """Flushes and closes the files."""
    if self._on:
      self._bar.stop()
      self._file.close()
      self._boards.close()
      self._buffer.close()

  @contextlib.contextmanager
  def paused(self) -> Iterator[None]:
    """Hides the bar, so that an evaluation can show its own."""
    if self._on:
      self._bar.stop()
    yield
    if self._on:
      self._bar.start()

  def compiled(self, step: int) -> None:
    """Prints the time of the first update, which no rate includes."""
    seconds = time.perf_counter() - self._clock
    self._first = step
    self._say(step, f'compiled and applied one update in {seconds:.1f} s')
    self._compiled = True
    self._split.restart()

  def update(self, step: int, tokens: int) -> None:
    """Counts an update and the tokens of its global batch."""
    if self._compiled:  # rates exclude the update that compiled
      self._compiled = False
      self._clock = self._started = time.perf_counter()
    else:
      self._tokens += tokens
    if self._on:
      self._bar.update(self._task, completed=step)

  def train(
    self,
    step: int,
    metrics: dict[str, float],
    norms: Mapping[str, float] | None = None,
  ) -> None:
    """Writes a training row, with rates measured since the last row.

    Args:
      step: number of updates done.
      metrics: values to write to metrics.jsonl and to draw.
      norms: values to draw only.
    """
    now = time.perf_counter()
    seconds = now - self._clock
    rate = self._tokens / max(seconds, 1e-9)
    row: dict[str, float] = {'step': step, **metrics}
    note = f'loss {metrics["loss"]:.3f}'
    if self._tokens:  # there is no rate after the update that compiled
      row['tokens_per_second'] = round(rate, 1)
      note += f'  {rate:,.0f} tokens/s'
      if self._peak:
        row['utilisation'] = rate * self._flops_per_token / self._peak
        note += f'  {row["utilisation"]:.1%} of peak'
      row['seconds'] = round(seconds, 3)
    self._clock, self._tokens = now, 0
    self.write(row)
    if self._on:
      split = self._split.take()
      seconds_of = {f'seconds_of/{name}': x for name, x in split.items()}
      self._boards.scalars(step, {**(norms or {}), **seconds_of})
    self._say(step, note)

  def sample(self, step: int, text: str) -> None:
    """Shows a sample of generated text; keeps the last in samples.txt."""
    if self._on:
      text = text.strip()
      self._boards.text(step, 'sample', text)
      path = self._buffer.folder / SAMPLES
      storage.write_text(path, f'After {step:,} updates:\n\n{text}\n')

  def evaluation(self, step: int, metrics: dict[str, float]) -> None:
    """Writes an evaluation row and restarts the rate measurement."""
    self.write({'step': step, **metrics})
    self._say(
      step, '  '.join(f'{name} {value:.4g}' for name, value in metrics.items())
    )
    self._clock, self._tokens = time.perf_counter(), 0

  def skipped(self, step: int, what: str, count: int, limit: int) -> None:
    """Writes a row and a line about an update that was skipped."""
    self.write({'step': step, 'skipped': count})
    self._say(step, f'{what} ({count} of {limit}, train.skip_nonfinite)')

  def evaluated(self, step: int) -> bool:
    """Returns True on every host if a row holds the scores of `step`."""
    return bool(hosts.from_first(np.bool_(step in self._evaluated)))

  def saved(self, step: int, seconds: float, since: float) -> None:
    """Prints the time that a save took.

    Args:
      step: number of updates saved.
      seconds: time for which training waited.
      since: time since the previous save, or since the start.
    """
    share = seconds / max(since, 1e-9)
    self._say(step, f'saved in {seconds:.2f} s, {share:.1%} of the time')

  def write(self, row: Mapping[str, float]) -> None:
    """Appends a row to metrics.jsonl and to the curves."""
    if not self._on:
      return
    with storage.naming(self._buffer.folder / METRICS):
      self._file.write(storage.to_json(row) + '\n')
      self._file.flush()
    curves = {name: x for name, x in row.items() if name != 'step'}
    self._boards.scalars(int(row['step']), curves)
    if time.perf_counter() - self._uploaded > _UPLOAD_EVERY:
      self.upload()

  def upload(self) -> None:
    """Uploads pending rows and events to the run's bucket."""
    if self._on:
      self._boards.flush()
      self._buffer.upload()
      self._uploaded = time.perf_counter()

  def _say(self, step: int, note: str) -> None:
    if not self._on:
      return
    self._bar.update(self._task, note=note)
    if not self._console.is_terminal:
      if step > self._first:
        left = (time.perf_counter() - self._started) / (step - self._first)
        left *= self._span.stop - step
        note += f'  {left / 60:.1f} min left'
      print(
        f'{self._label} {step}/{self._span.stop}  {note}',
        file=sys.stderr,
        flush=True,
      )


def peak_flops() -> float | None:
  """Returns the peak bf16 FLOP/s of all devices; None if unknown (CPU)."""
  chip = chips.lookup(jax.devices()[0].device_kind)
  return chip.flops * jax.device_count() if chip else None


def _is_evaluation(row: Row) -> bool:
  return any(name.startswith('eval_') for name in row)


def read_rows(path: storage.Path) -> list[Row]:
  """Reads the rows of a metrics.jsonl; skips damaged lines."""
  rows = []
  for line in storage.read_bytes(path).splitlines() if path.exists() else ():
    try:
      row = json.loads(line)
    except (ValueError, RecursionError):
      continue
    if isinstance(row, dict) and type(row.get('step')) is int:
      rows.append(row)
  return rows
