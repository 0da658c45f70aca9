"""Reads the examples of a task: rows of its files, labels made numbers.

Everything a user's file can have wrong ends in one line that names file,
line and what is allowed.
"""

import dataclasses
import math
from typing import Any

from absl import logging

from gpt1_jax import errors
from gpt1_jax.tasks import table
from gpt1_jax.tasks.readers import sources


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


def read(task: table.Task, path: str | None, split: str) -> list[Example]:
  """Reads one split, in the order of its file.

  Rows without a label are dropped, and their number logged; only a test file
  that has no label at all keeps its rows, with label None.

  Args:
    task: a row of `tasks.TASKS`, or what `resolve` made of a config.
    path: the task's folder, its parent, or a zip or tar of either; or `tfds`
      (`sources.read`).
    split: 'train', 'dev', 'test' or another key of `task.files`.

  Raises:
    UserError: files not found (says what was looked for) or a row that cannot
      be used (names file, line and what is allowed).
  """
  origin, numbered = sources.read(task, path, split)
  testing = split.startswith('test')
  needed = task.texts if testing else (*task.texts, task.label)
  examples, cut = [], 0
  for number, where, row in numbered:
    if task.cut_rows and any(column not in row for column in needed):
      if not testing:
        cut += 1
        continue
      # The server wants a line for every row of a hidden test set.
      row = {**dict.fromkeys(task.texts, ''), **row}
    examples.append(_example(task, split, row, number, where))
  if cut:
    logging.warning('%s: %d rows cut short, dropped', origin, cut)
  return _labelled(examples, origin, split)


def _example(
  task: table.Task, split: str, row: dict[str, Any], number: int, where: str
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
  if task.label not in row and not split.startswith('test'):
    raise _bad_label(task, None, len(choices), where)
  label = _label(task, row.get(task.label), len(choices), where)
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
  task: table.Task, value: Any, answers: int, where: str
) -> int | float | None:
  """Class number, answer number or value; None where there is no label."""
  if isinstance(value, bool):
    value = str(value).lower()  # as JSON spells it
  elif isinstance(value, float) and value.is_integer():
    value = int(value)
  spelled = '' if value is None else str(value).strip()
  spelled = dict(task.synonyms).get(spelled, spelled)
  labels = _labels(task, answers)
  if spelled in labels:
    return labels.index(spelled)
  low, high = task.bounds or (-math.inf, math.inf)
  a_value = task.regression and low <= -1
  if spelled in ('', '-') or (spelled == '-1' and not a_value):
    return None
  if task.regression:
    number = _number(value)
    if math.isfinite(number) and low <= number <= high:
      return number
  raise _bad_label(task, value, answers, where)


def _labels(task: table.Task, answers: int) -> tuple[str, ...]:
  """Spellings of the labels a row may have; none for regression."""
  if task.kind != 'choice':
    return task.labels
  return (task.labels or tuple(map(str, range(answers))))[:answers]


def _number(value: Any) -> float:
  try:
    return float(value)
  except (TypeError, ValueError):
    return math.nan


def _bad_label(
  task: table.Task, value: Any, answers: int, where: str
) -> errors.UserError:
  what = f'label {value!r} in column {task.label!r}'
  if value is None:
    what = f'no {task.label!r} in this row'
  allowed = ', '.join(_labels(task, answers))
  if task.regression:
    allowed = 'a number'
    if task.bounds:
      allowed += ' from {:g} to {:g}'.format(*task.bounds)
  return errors.UserError(f'{where}: {what}; allowed: {allowed}')


def _labelled(
  examples: list[Example], origin: str, split: str
) -> list[Example]:
  """Drops and counts rows without a label, unless a test set hides them."""
  kept = [example for example in examples if example.label is not None]
  if not kept and split.startswith('test'):
    kept = examples
  if not kept:
    raise errors.UserError(f'{origin}: no row with a label for split {split}')
  if len(kept) < len(examples):
    logging.warning(
      '%s: %d rows without a label, dropped', origin, len(examples) - len(kept)
    )
  _same_choices(kept, origin)
  return kept


def _same_choices(examples: list[Example], origin: str) -> None:
  """One compiled shape: each row offers as many answers as the first."""
  count = len(examples[0].choices)
  for example in examples:
    if len(example.choices) != count:
      raise errors.UserError(
        f'{origin}: row {example.row + 1} has {len(example.choices)} choices, '
        f'the first row has {count}; all rows need the same number'
      )
