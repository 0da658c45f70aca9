"""Writes files of tasks by hand, and declares own tasks."""

import json
import pathlib
from collections.abc import Iterable
from typing import Any

from gpt1_jax import config
from gpt1_jax.task_settings import OwnTask
from gpt1_jax.tasks import definition, table


def write(folder: pathlib.Path, name: str, lines: Iterable[str]) -> None:
  """Writes a file of lines; creates its folder."""
  folder.mkdir(parents=True, exist_ok=True)
  (folder / name).write_text(''.join(f'{line}\n' for line in lines))


def jsonl(folder: pathlib.Path, name: str, *objects: Any) -> None:
  """Writes one object a line."""
  write(folder, name, map(json.dumps, objects))


def own(**fields: Any) -> definition.Task:
  """Returns the task that `--config.task.FIELD=...` declares."""
  return table.resolve(config.parse(OwnTask, fields))
