"""Writes curves and texts of a run to TensorBoard."""

import math
import pathlib
from collections.abc import Mapping

import tensorboardX


class Boards:
  """Receives the numbers and texts of a run."""

  def __init__(self, folder: pathlib.Path, start: int):
    """Opens FOLDER/tensorboard; hides events past update `start`."""
    self._tensorboard = tensorboardX.SummaryWriter(
      str(folder / 'tensorboard'), purge_step=start + 1
    )

  def scalars(self, step: int, values: Mapping[str, float]) -> None:
    """Draws a point of each curve; leaves out what is not finite."""
    for name, value in values.items():
      if math.isfinite(value):
        self._tensorboard.add_scalar(name, value, step)

  def text(self, step: int, name: str, text: str) -> None:
    """Shows a text, with its white space."""
    lines = '\n'.join(f'    {line}' for line in text.splitlines())  # Markdown
    self._tensorboard.add_text(name, lines, step)

  def flush(self) -> None:
    """Writes what is pending."""
    self._tensorboard.flush()

  def close(self) -> None:
    """Closes the files."""
    self._tensorboard.close()
