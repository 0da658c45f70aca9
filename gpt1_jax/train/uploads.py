"""Uploads files that grow during a run to the bucket of the run."""

import os
import pathlib
import tempfile

from gpt1_jax import storage


class UploadBuffer:
  """Provides a local folder for growing files and uploads them to a bucket.

  Attributes:
    folder: where to write: the target itself, or a temporary folder if the
      target is in a bucket.
  """

  def __init__(self, target: str | os.PathLike[str]):
    self._target = storage.path(target)
    self._uploaded: dict[pathlib.Path, int] = {}  # file -> bytes
    self._temporary: tempfile.TemporaryDirectory[str] | None = None
    if isinstance(self._target, pathlib.Path):
      self.folder = self._target
    else:
      self._temporary = tempfile.TemporaryDirectory(prefix='gpt1_jax-')
      self.folder = pathlib.Path(self._temporary.name)

  def upload(self) -> None:
    """Uploads every file whose size has changed since the last upload."""
    if not self._temporary:
      return
    for file in sorted(self.folder.rglob('*')):
      if not file.is_file():
        continue
      content = file.read_bytes()
      if self._uploaded.get(file) != len(content):
        storage.write_bytes(
          self._target / file.relative_to(self.folder), content
        )
        self._uploaded[file] = len(content)

  def close(self) -> None:
    """Uploads changed files and removes the temporary folder."""
    if self._temporary:
      self.upload()
      self._temporary.cleanup()
