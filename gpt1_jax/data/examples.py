"""Reads the examples of a task: rows of its files, labels made numbers.

Everything a user's file can have wrong ends in one line that names file,
line and what is allowed.
"""

import dataclasses
import math
import pathlib
from typing import Any

from absl import logging

from gpt1_jax import errors
from gpt1_jax.data import rows, tasks


@dataclasses.dataclass(frozen=True)
class Example:
  """One row: its texts and, unless it is hidden, its label.

  Attributes:
    texts: as `tasks.Task.texts` orders them.
    choices: the answers, empty for other kinds.
    label: class or answer number (int), value (float), or None where hidden.
    row: number of the row in its file, from 0, header not counted.
  """

  texts: tuple[str, ...]
  choices: tuple[str, ...] = ()
  label: int | float | None = None
  row: int = 0


def has(task: tasks.Task, path: str | None, split: str) -> bool:
  """Whether `read` would find a file for this split."""
  if split not in task.files:
    return False
  source, ids = _find(task, _folder(path), split)
  return source is not None or ids is not None


def read(task: tasks.Task, path: str | None, split: str) -> list[Example]:
  """Reads one split, in the order of its file.

  Rows without a label are dropped, and their number logged; only a test file
  that has no label at all keeps its rows, with label None.

  Args:
    task: a row of `tasks.TASKS`, or what `resolve` made of a config.
    path: the task's folder, its parent, or a zip of either.
    split: 'train', 'dev', 'test' or another key of `task.files`.

  Raises:
    UserError: files not found (says what was looked for) or a row that cannot
      be used (names file, line and what is allowed).
  """
  folder = _folder(path)
  source, ids = _find(task, folder, split)
  pairs = None
  if ids is not None:
    pairs = {
      (row['#1 ID'], row.get('#2 ID'))
      for _, row in rows.read(ids, ('#1 ID', '#2 ID'), ('#1 ID', '#2 ID'))
    }
    if split == 'dev':
      source, _ = _find(task, folder, 'train')
  if source is None:
    names = task.files[split] + (task.held_out if split == 'dev' else ())
    raise errors.UserError(
      f'no {split} file of task {task.name}: '
      + rows.looked_for(folder, names, task.folders or (task.name,))
    )
  _check_folder(task, source)
  examples, cut = [], 0
  needed = task.texts if split.startswith('test') else (*task.texts, task.label)
  for number, (line, row) in enumerate(rows.read(source, needed, task.columns)):
    if pairs is not None:
      held_out = (row.get('#1 ID'), row.get('#2 ID')) in pairs
      if held_out != (split == 'dev'):
        continue
    if task.cut_rows and any(column not in row for column in needed):
      cut += 1
      continue
    examples.append(_example(task, split, row, number, f'{source}:{line}'))
  if cut:
    logging.warning('%s: %d rows cut short, dropped', source, cut)
  return _labelled(examples, source, split)


def _folder(path: str | None) -> pathlib.Path:
  if not path:
    raise errors.UserError(
      "config.data.path is not set: give the folder or zip of the task's files"
    )
  return pathlib.Path(path).expanduser()


def _find(
  task: tasks.Task, path: pathlib.Path, split: str
) -> tuple[rows.Source | None, rows.Source | None]:
  """The split's own file, and the ids of held-out rows where these serve."""
  if split not in task.files:
    raise errors.UserError(
      f'task {task.name} has no split {split!r}: {", ".join(task.files)}'
    )
  folders = task.folders or (task.name,)
  source = rows.find(path, task.files[split], folders)
  if not task.held_out or split not in ('train', 'dev'):
    return source, None
  if rows.find(path, task.files['dev'], folders):
    return source, None
  return source, rows.find(path, task.held_out, folders)


def _check_folder(task: tasks.Task, source: rows.Source) -> None:
  """Files of two tasks can look alike; their folder tells them apart."""
  if task.name not in tasks.TASKS:
    return
  for other in tasks.TASKS.values():
    names = {rows.same_name(name) for name in other.folders}
    if source.folder in names and other.name != task.name:
      raise errors.UserError(
        f'{source}: this is the folder of task {other.name}, not of '
        f'{task.name}; set config.data.path'
      )


def _example(
  task: tasks.Task, split: str, row: dict[str, Any], number: int, where: str
) -> Example:
  texts = tuple(_text(row, column, where) for column in task.texts)
  choices: tuple[str, ...] = ()
  if task.kind == 'choice':
    given = row.get(task.choices)
    if (
      not isinstance(given, list)
      or len(given) < 2
      or not all(isinstance(answer, str) for answer in given)
    ):
      raise errors.UserError(
        f'{where}: {task.choices!r} must be a list of two or more texts'
      )
    choices = tuple(given)
  label = _label(task, split, row.get(task.label), len(choices), where)
  return Example(texts, choices, label, number)


def _text(row: dict[str, Any], column: str, where: str) -> str:
  if column not in row:
    raise errors.UserError(
      f'{where}: no {column!r} in this row; it has '
      + (', '.join(repr(key) for key in list(row)[:16]) or 'nothing')
    )
  if not isinstance(row[column], str):
    raise errors.UserError(
      f'{where}: {column!r} is {row[column]!r} where a text is wanted'
    )
  return row[column]


def _label(
  task: tasks.Task, split: str, value: Any, answers: int, where: str
) -> int | float | None:
  """Class number, answer number or value; None where there is no label."""
  if isinstance(value, bool):
    value = str(value).lower()  # as JSON spells it
  elif isinstance(value, float) and value.is_integer() and not task.regression:
    value = int(value)
  spelled = '' if value is None else str(value).strip()
  spelled = dict(task.synonyms).get(spelled, spelled)
  labels = task.labels
  if task.kind == 'choice' and not labels:
    labels = tuple(str(number) for number in range(answers))
  if not task.regression and spelled in labels[: answers or None]:
    return labels.index(spelled)
  absent = ('', '-') if task.regression else ('', '-', '-1')
  if spelled in (task.unlabelled if split == 'train' else absent):
    return None
  if task.regression:
    return _value(task, value, where)
  raise _bad_label(task, value, where, ', '.join(labels[: answers or None]))


def _value(task: tasks.Task, value: Any, where: str) -> float:
  try:
    number = float(value)
  except (TypeError, ValueError):
    number = math.nan
  low, high = task.bounds or (-math.inf, math.inf)
  if math.isfinite(number) and low <= number <= high:
    return number
  span = f' from {low:g} to {high:g}' if task.bounds else ''
  raise _bad_label(task, value, where, 'a number' + span)


def _bad_label(
  task: tasks.Task, value: Any, where: str, allowed: str
) -> errors.UserError:
  what = f'label {value!r} in column {task.label!r}'
  if value is None:
    what = f'no {task.label!r} in this row'
  return errors.UserError(f'{where}: {what}; allowed: {allowed}')


def _labelled(
  examples: list[Example], source: rows.Source, split: str
) -> list[Example]:
  """Drops and counts rows without a label, unless a test set hides them."""
  kept = [example for example in examples if example.label is not None]
  if not kept and split.startswith('test'):
    kept = examples
  if not kept:
    raise errors.UserError(f'{source}: no row with a label for split {split}')
  if len(kept) < len(examples):
    logging.warning(
      '%s: %d rows without a label, dropped', source, len(examples) - len(kept)
    )
  _same_choices(kept, source)
  return kept


def _same_choices(examples: list[Example], source: rows.Source) -> None:
  """One compiled shape: each row offers as many answers as the first."""
  count = len(examples[0].choices)
  for example in examples:
    if len(example.choices) != count:
      raise errors.UserError(
        f'{source}: row {example.row + 1} has {len(example.choices)} choices, '
        f'the first row has {count}; all rows need the same number'
      )
