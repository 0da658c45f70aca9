"""Compares the rows of small runs; writes a small task to learn."""

import json
import os
import pathlib
from typing import Any

import jax
import numpy as np

from gpt1_jax.train import checkpoint, telemetry

_TIMED = {'tokens_per_second', 'seconds', 'utilisation'}
Folder = str | os.PathLike[str]


def untimed(rows: list[dict[str, Any]]) -> list[dict[str, Any]]:
  """Returns rows of metrics.jsonl without what the clock changes."""
  return [{k: v for k, v in row.items() if k not in _TIMED} for row in rows]


def rows(workdir: Folder) -> list[dict[str, Any]]:
  """Returns the untimed rows of a run."""
  path = pathlib.Path(workdir) / telemetry.METRICS
  return untimed(telemetry.read_rows(path))


def assert_same(a: Folder, b: Folder) -> None:
  """Asserts that two runs have the same rows and last weights, bit for bit."""
  assert rows(a) == rows(b)
  one, other = checkpoint.read(str(a)), checkpoint.read(str(b))
  assert one.step == other.step
  jax.tree.map(np.testing.assert_array_equal, one.params, other.params)


def write_task(folder: pathlib.Path, **counts: int) -> pathlib.Path:
  """Writes `counts` rows of each split, labelled bad or good; returns `folder`.

  The label is a word of the text.
  """
  folder.mkdir(parents=True, exist_ok=True)
  for split, count in counts.items():
    labels = [('bad', 'good')[i % 3 == 0] for i in range(count)]
    lines = [
      json.dumps({'text': f'the {label} object {i}', 'label': label}) + '\n'
      for i, label in enumerate(labels)
    ]
    (folder / f'{split}.jsonl').write_text(''.join(lines))
  return folder
