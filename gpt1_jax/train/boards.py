"""Draws a run's curves in TensorBoard and, if asked, in Weights & Biases."""

import dataclasses
import html
import importlib.util
import math
import pathlib
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
    import tensorboardX  # slow, and --help needs none

    self._tensorboard = tensorboardX.SummaryWriter(
      str(folder / 'tensorboard'), purge_step=start + 1
    )
    self._wandb = None
    if project and project.name:
      self._wandb = _open_wandb(folder, project)

  def scalars(self, step: int, values: Mapping[str, float]) -> None:
    """Draws a point of each curve; skips NaN and infinity."""
    finite = {name: x for name, x in values.items() if math.isfinite(x)}
    for name, value in finite.items():
      self._tensorboard.add_scalar(name, value, step)
    if self._wandb:
      self._wandb.log(finite, step=step)

  def text(self, step: int, name: str, text: str) -> None:
    """Shows a text, and keeps its white space."""
    lines = '\n'.join(f'    {line}' for line in text.splitlines())  # Markdown
    self._tensorboard.add_text(name, lines, step)
    if self._wandb:
      import wandb

      shown = wandb.Html(f'<pre>{html.escape(text)}</pre>', inject=False)
      self._wandb.log({name: shown}, step=step)

  def flush(self) -> None:
    """Writes pending events."""
    self._tensorboard.flush()

  def close(self) -> None:
    """Closes the files, and ends the run in Weights & Biases."""
    self._tensorboard.close()
    if self._wandb:
      self._wandb.finish()


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
