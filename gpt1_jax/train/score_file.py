"""Writes and reads scores.json, which has a checksum of its own content."""

import os
from collections.abc import Mapping
from typing import Any

from gpt1_jax import storage
from gpt1_jax.corpus import verification
from gpt1_jax.errors import UserError

NAME = 'scores.json'


def path(workdir: str | os.PathLike[str]) -> storage.Path:
  """Returns the path of a run's scores.json."""
  return storage.path(workdir) / NAME


def write(workdir: str | os.PathLike[str], scores: Mapping[str, Any]) -> None:
  """Writes WORKDIR/scores.json."""
  sealed = {**scores, 'checksum': verification.digest(scores)}
  storage.write_json(path(workdir), sealed)


def read(workdir: str | os.PathLike[str]) -> Any:
  """Reads WORKDIR/scores.json, without its checksum.

  Raises:
    UserError: the file is not JSON, or its checksum differs. Runs older than
      the checksum have none.
    FileNotFoundError: the file does not exist.
  """
  found = storage.read_json(path(workdir))
  if not isinstance(found, dict) or 'checksum' not in found:
    return found
  if found.pop('checksum') != verification.digest(found):
    raise UserError(
      f'{path(workdir)}: damaged (its checksum differs); restore it from a '
      'copy, or delete it and run the command again, which writes it anew'
    )
  return found
