"""Writes and reads scores.json, which has a checksum of its own content."""

import os
from collections.abc import Mapping
from typing import Any

import pydantic

from gpt1_jax import storage
from gpt1_jax.corpus import verification
from gpt1_jax.errors import UserError
from gpt1_jax.train import file_shapes

NAME = 'scores.json'


def path(workdir: str | os.PathLike[str]) -> storage.Path:
  """Returns the path of a run's scores.json."""
  return storage.path(workdir) / NAME


def write(workdir: str | os.PathLike[str], scores: Mapping[str, Any]) -> None:
  """Writes WORKDIR/scores.json."""
  sealed = {**scores, 'checksum': verification.digest(scores)}
  storage.write_json(path(workdir), sealed)


def read(
  workdir: str | os.PathLike[str],
  shape: pydantic.TypeAdapter[Any] | None = None,
) -> Any:
  """Reads WORKDIR/scores.json, without its checksum.

  Args:
    shape: of its content; None accepts any JSON.

  Raises:
    UserError: the file is not JSON, its checksum differs, or it has another
      shape. Runs older than the checksum have none.
    FileNotFoundError: the file does not exist.
  """
  file = path(workdir)
  found = storage.read_json(file)
  sealed = isinstance(found, dict) and 'checksum' in found
  if sealed and found.pop('checksum') != verification.digest(found):
    raise UserError(
      f'{file}: damaged (its checksum differs); restore it from a copy, or '
      'delete it and run the command again, which writes it anew'
    )
  return file_shapes.check(found, file, shape) if shape else found


def find(workdir: str | os.PathLike[str], command: str) -> Any:
  """Returns the scores of a run of a command; None if it has none.

  Raises:
    UserError: see `read`.
  """
  if not path(workdir).exists():
    return None
  if command == 'finetune':
    return read(workdir, file_shapes.TUNING_SCORES)
  return read(workdir, file_shapes.PRETRAINING_SCORES)
