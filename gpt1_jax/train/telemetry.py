"""What a run says: metrics.jsonl, TensorBoard, the progress line.

A resumed run never holds two rows of a kind for one step: rows past the
checkpoint it resumes from are dropped first, and will be written again.

Nothing can be appended to an object of a bucket. Of a run in one, rows and
events grow in a folder of this machine and are written to the bucket whole:
before each checkpoint, at the end, and each minute between. So a run that is
killed loses rows of updates that it will do again, and no others (TensorBoard's
events may lack the last ones as well).
"""

import json
import math
import sys
import time
from typing import Any

import jax
import tensorboardX
from rich import console, progress

from gpt1_jax import storage
from gpt1_jax.train import chips

METRICS = 'metrics.jsonl'
_SEND_EVERY = 60.0  # seconds; a bucket takes an object once a second at most


class Telemetry:
  """Rows on disk and a line on the terminal; silent but on process 0."""

  def __init__(
    self,
    workdir: str,
    *,
    start_step: int,
    num_steps: int,
    flops_per_token: float,
    label: str,
  ):
    """Opens the run's files.

    Args:
      workdir: the run.
      start_step: updates already applied; later rows are dropped.
      num_steps: updates in all.
      flops_per_token: model FLOPs a token (`models.flops_per_token`).
      label: what the progress line is of.
    """
    self._on = jax.process_index() == 0
    self._flops_per_token = flops_per_token
    self._peak = peak_flops()
    self._clock = time.perf_counter()
    self._tokens = 0
    if not self._on:
      return
    self._uploads = storage.UploadBuffer(workdir)
    self._sent = time.perf_counter()
    path = self._uploads.folder / METRICS
    rows = read_rows(storage.path(workdir) / METRICS)
    kept = [json.dumps(row) + '\n' for row in rows if row['step'] <= start_step]
    storage.write_text(path, ''.join(kept))
    self._file = path.open('a', encoding='utf-8')
    self._board = tensorboardX.SummaryWriter(
      str(self._uploads.folder / 'tensorboard'), purge_step=start_step + 1
    )
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
      label, total=num_steps, completed=start_step, note=''
    )
    self._num_steps, self._label = num_steps, label
    self._started, self._start_step = time.perf_counter(), start_step
    self._bar.start()

  def __enter__(self) -> 'Telemetry':
    return self

  def __exit__(self, *_) -> None:
    """Flushes and closes the files."""
    if self._on:
      self._bar.stop()
      self._file.close()
      self._board.close()
      self._uploads.close()

  def update(self, step: int, tokens: int) -> None:
    """One update is done; `tokens` of the global batch went into it."""
    self._tokens += tokens
    if self._on:
      self._bar.update(self._task, completed=step)

  def train(self, step: int, metrics: dict[str, float]) -> None:
    """A training row, with the rates since the last row."""
    now = time.perf_counter()
    seconds = now - self._clock
    rate = self._tokens / max(seconds, 1e-9)
    self._clock, self._tokens = now, 0
    row = {'step': step, **metrics, 'tokens_per_second': round(rate, 1)}
    note = f'loss {metrics["loss"]:.3f}  {rate:,.0f} tokens/s'
    if self._peak:
      row['utilisation'] = rate * self._flops_per_token / self._peak
      note += f'  {row["utilisation"]:.1%} of peak'
    row['seconds'] = round(seconds, 3)
    self.write(row)
    self._say(step, note)

  def evaluation(self, step: int, metrics: dict[str, float]) -> None:
    """An evaluation row; the clock of the rates starts anew."""
    self.write({'step': step, **metrics})
    self._say(
      step, '  '.join(f'{name} {value:.4g}' for name, value in metrics.items())
    )
    self._clock, self._tokens = time.perf_counter(), 0

  def write(self, row: dict[str, Any]) -> None:
    """Appends a row to metrics.jsonl and to TensorBoard."""
    if not self._on:
      return
    self._file.write(json.dumps(row) + '\n')
    self._file.flush()
    for name, value in row.items():
      if name != 'step' and math.isfinite(value):
        self._board.add_scalar(name, value, row['step'])
    if time.perf_counter() - self._sent > _SEND_EVERY:
      self.upload()

  def upload(self) -> None:
    """Uploads pending rows and events to the run's bucket, if it is in one."""
    if self._on:
      self._board.flush()
      self._uploads.upload()
      self._sent = time.perf_counter()

  def _say(self, step: int, note: str) -> None:
    if not self._on:
      return
    self._bar.update(self._task, note=note)
    if not self._console.is_terminal:
      done = max(step - self._start_step, 1)
      left = (time.perf_counter() - self._started) / done
      left *= self._num_steps - step
      print(
        f'{self._label} {step}/{self._num_steps}  {note}  '
        f'{left / 60:.1f} min left',
        file=sys.stderr,
        flush=True,
      )


def peak_flops() -> float | None:
  """FLOP/s of all devices in bf16, None where the kind is unknown (CPU)."""
  chip = chips.of(jax.devices()[0].device_kind)
  return chip.flops * jax.device_count() if chip else None


def read_rows(path: storage.Path) -> list[dict[str, Any]]:
  """Rows of a metrics.jsonl; a torn last line is not a row."""
  rows = []
  if path.exists():
    for line in path.read_text(encoding='utf-8').splitlines():
      try:
        rows.append(json.loads(line))
      except ValueError:
        break
  return rows
