"""Parses a row of a JSON lines file, of a corpus or a task."""

import json
from typing import Any

from gpt1_jax import storage


def parse(text: str) -> Any:
  """Returns the value of a row.

  Raises:
    ValueError: it is not JSON, is nested too deeply, or an object has a key
      twice. Python itself would silently take the last value.
    RecursionError: it is nested still more deeply.
  """
  found = json.loads(text, object_pairs_hook=_unique)
  storage.check_depth(found)
  return found


def _unique(pairs: list[tuple[str, object]]) -> dict[str, object]:
  found: dict[str, object] = {}
  for key, value in pairs:
    if key in found:
      raise ValueError(f'the key {key[:60]!r} appears twice in one object')
    found[key] = value
  return found
