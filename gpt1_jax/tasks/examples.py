"""Turns the rows of a split into examples, and their labels into numbers.

Every mistake in a user's file is reported in one line that names the file,
the line and what is allowed.
"""

import dataclasses
import math
from typing import Any

from absl import logging

from gpt1_jax.errors import UserError
from gpt1_jax.tasks.definition import Task
from gpt1_jax.tasks.readers import sources
from gpt1_jax.tasks.readers.rows import Row


@dataclasses.dataclass(frozen=True)
class Example:
  """The texts and the label of one row.

  Attributes:
    texts: in the order of `Task.texts`.
    choices: the answers; empty for kinds other than choice.
    label: class or answer number (int), value (float), or None if hidden.
    row: `Row.number` of the row it was read from.
  """

  texts: tuple[str, ...]
  choices: tuple[str, ...] = ()
  label: int | float | None = None
  row: int = 0


def read(task: Task, path: str | None, split: str) -> list[Example]:
  """Reads one split, in the order of its file.

  Drops rows without a label and logs how many. A test split in which no row
  has a label keeps all rows, with label None.

  Args:
    task: the task.
    path: see `sources.read`.
    split: a key of `task.files`.

  Raises:
    UserError: the files are not found, or a row cannot be used (names file,
      line and what is allowed).
  """
  origin, rows = sources.read(task, path, split)
  hidden_allowed = split.startswith('test')
  needed = task.texts if hidden_allowed else (*task.texts, task.label)
  examples, num_cut = [], 0
  for row in rows:
    if task.cut_rows and any(column not in row.cells for column in needed):
      if not hidden_allowed:
        num_cut += 1
        continue
      # The GLUE server expects a line for every row of a hidden test set.
      cells = {**dict.fromkeys(task.texts, ''), **row.cells}
      row = dataclasses.replace(row, cells=cells)
    examples.append(_example(task, row, hidden_allowed))
  if num_cut:
    logging.warning('%s: %d rows cut short, dropped', origin, num_cut)
  kept = [example for example in examples if example.label is not None]
  if not kept and hidden_allowed:
    kept = examples
  if not kept:
    raise UserError(f'{origin}: no row of split {split} has a label')
  if len(kept) < len(examples):
    logging.warning(
      '%s: %d rows without a label, dropped', origin, len(examples) - len(kept)
    )
  _check_choices(kept, origin)
  return kept


def _example(task: Task, row: Row, hidden_allowed: bool) -> Example:
  texts = tuple(_text(row, column) for column in task.texts)
  choices: tuple[str, ...] = ()
  if task.kind == 'choice':
    given = row.cells.get(task.choices)
    if (
      not isinstance(given, list)
      or len(given) < 2
      or not all(isinstance(answer, str) for answer in given)
    ):
      raise UserError(
        f'{row.where}: {task.choices!r} must be a list of two or more texts'
      )
    choices = tuple(given)
  if task.label not in row.cells and not hidden_allowed:
    raise _bad_label(task, row, None, len(choices))
  return Example(texts, choices, _label(task, row, len(choices)), row.number)


def _text(row: Row, column: str) -> str:
  if column not in row.cells:
    raise UserError(
      f'{row.where}: no {column!r} in this row; it has '
      + (', '.join(repr(key) for key in list(row.cells)[:16]) or 'nothing')
    )
  if not isinstance(row.cells[column], str):
    raise UserError(
      f'{row.where}: {column!r} is {row.cells[column]!r}, not a text'
    )
  return row.cells[column]


def _label(task: Task, row: Row, num_choices: int) -> int | float | None:
  """Returns the number of the class or answer, the value, or None if hidden.

  This is the only place where labels become numbers.
  """
  value = row.cells.get(task.label)
  if isinstance(value, bool):
    value = str(value).lower()  # as JSON spells it
  elif isinstance(value, float) and value.is_integer():
    value = int(value)
  spelled = '' if value is None else str(value).strip()
  spelled = dict(task.synonyms).get(spelled, spelled)
  labels = _labels(task, num_choices)
  if spelled in labels:
    return labels.index(spelled)
  low, high = task.bounds or (-math.inf, math.inf)
  minus_one_is_a_value = task.regression and low <= -1
  if spelled in ('', '-') or (spelled == '-1' and not minus_one_is_a_value):
    return None
  if task.regression:
    number = _number(value)
    if math.isfinite(number) and low <= number <= high:
      return number
  raise _bad_label(task, row, value, num_choices)


def _labels(task: Task, num_choices: int) -> tuple[str, ...]:
  """Returns the spellings a label may have; none for regression."""
  if task.kind != 'choice':
    return task.labels
  return (task.labels or tuple(map(str, range(num_choices))))[:num_choices]


def _number(value: Any) -> float:
  try:
    return float(value)
  except (TypeError, ValueError):
    return math.nan


def _bad_label(
  task: Task, row: Row, value: object, num_choices: int
) -> UserError:
  problem = f'label {value!r} in column {task.label!r}'
  if value is None:
    problem = f'no {task.label!r} in this row'
  allowed = ', '.join(_labels(task, num_choices))
  if task.regression:
    allowed = 'a number'
    if task.bounds:
      allowed += ' from {:g} to {:g}'.format(*task.bounds)
  return UserError(f'{row.where}: {problem}; allowed: {allowed}')


def _check_choices(examples: list[Example], origin: str) -> None:
  """Requires as many answers in every row: they share one compiled shape."""
  count = len(examples[0].choices)
  for example in examples:
    if len(example.choices) != count:
      raise UserError(
        f'{origin}: row {example.row + 1} has {len(example.choices)} choices, '
        f'the first row has {count}; all rows need the same number'
      )
