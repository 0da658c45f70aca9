"""Draws a run's curves in TensorBoard and, if asked, in Weights & Biases."""

import dataclasses
import html
import importlib.util
import math
import pathlib
import time
import uuid
from collections.abc import Mapping
from typing import Any

from gpt1_jax import storage
from gpt1_jax.errors import UserError

_WANDB_ID = 'wandb_id.txt'


@dataclasses.dataclass(frozen=True)
class Project:
  """Names the Weights & Biases project that shows a run.

  Attributes:
    name: config.train.wandb; '' sends nothing.
  """

  name: str
  workdir: str
  config: Mapping[str, Any]

  def check(self) -> None:
    """Raises UserError if wandb is requested but not installed."""
    if self.name and importlib.util.find_spec('wandb') is None:
      raise UserError(
        f"config.train.wandb={self.name}: pip install 'gpt1_jax[wandb]', or "
        'leave it empty'
      )


class Boards:
  """Receives the numbers and texts of a run."""

  def __init__(self, folder: pathlib.Path, start: int, project: Project | None):
    """Opens FOLDER/tensorboard and the run in Weights & Biases.

    Args:
      start: number of updates done; later events of TensorBoard are hidden.
    """
    self._events = _Events(folder / 'tensorboard', start)
    self._wandb = None
    if project and project.name:
      self._wandb = _open_wandb(folder, project)

  def scalars(self, step: int, values: Mapping[str, float]) -> None:
    """Draws a point of each curve; skips NaN and infinity."""
    finite = {name: x for name, x in values.items() if math.isfinite(x)}
    for name, value in finite.items():
      self._events.add_scalar(step, name, value)
    if self._wandb:
      self._wandb.log(finite, step=step)

  def text(self, step: int, name: str, text: str) -> None:
    """Shows a text, and keeps its white space."""
    lines = '\n'.join(f'    {line}' for line in text.splitlines())  # Markdown
    self._events.add_text(step, name, lines)
    if self._wandb:
      import wandb

      shown = wandb.Html(f'<pre>{html.escape(text)}</pre>', inject=False)
      self._wandb.log({name: shown}, step=step)

  def flush(self) -> None:
    """Writes pending events."""
    self._events.flush()

  def close(self) -> None:
    """Closes the files, and ends the run in Weights & Biases."""
    self._events.close()
    if self._wandb:
      self._wandb.finish()


class _Events:
  """Writes a file of TensorBoard's events.

  tensorboardX's own SummaryWriter writes in a thread. On a full disk that
  thread ends, and its caller waits for ever. Here OSError reaches the caller.
  """

  def __init__(self, folder: pathlib.Path, start: int):
    # Slow imports, and --help needs none.
    from tensorboardX import event_file_writer, summary
    from tensorboardX.proto import event_pb2

    folder.mkdir(exist_ok=True)
    self._folder = folder
    self._summary, self._event = summary, event_pb2.Event
    self._file = event_file_writer.EventsWriter(str(folder / 'events'))
    hidden = event_pb2.SessionLog(status=event_pb2.SessionLog.START)
    self._write(start + 1, session_log=hidden)

  def add_scalar(self, step: int, name: str, value: float) -> None:
    """Adds a point to a curve."""
    self._write(step, summary=self._summary.scalar(name, value))

  def add_text(self, step: int, name: str, text: str) -> None:
    """Adds a text, in Markdown."""
    self._write(step, summary=self._summary.text(name, text))

  def flush(self) -> None:
    """Writes pending events to the disk."""
    with storage.naming(self._folder):
      self._file.flush()

  def close(self) -> None:
    """Writes pending events and closes the file."""
    with storage.naming(self._folder):
      self._file.close()

  def _write(self, step: int, **content: Any) -> None:
    event = self._event(wall_time=time.time(), step=step, **content)
    with storage.naming(self._folder):
      self._file.write_event(event)


def _open_wandb(folder: pathlib.Path, project: Project) -> Any:
  """Returns the run in Weights & Biases; resumes the one of the workdir.

  Raises:
    UserError: wandb refuses; it needs an account unless WANDB_MODE is offline.
  """
  import wandb

  file = storage.path(project.workdir) / _WANDB_ID
  if not file.exists():
    storage.write_text(file, uuid.uuid4().hex[:8])
  try:
    return wandb.init(
      project=project.name,
      name=file.parent.name,
      id=file.read_text(encoding='utf-8'),
      resume='allow',
      dir=folder,
      config=dict(project.config),
      settings=wandb.Settings(console='off'),
    )
  except wandb.errors.Error as error:
    line = ' '.join(str(error).split())
    raise UserError(
      f'config.train.wandb={project.name}: {line}; set WANDB_MODE=offline to '
      'send nothing, or leave it empty'
    ) from None
