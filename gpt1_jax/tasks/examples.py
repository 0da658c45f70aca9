"""Turns the rows of a split into examples, and their labels into numbers.

Every mistake in a user's file is reported in one line that names the file,
the line and what is allowed.
"""

import dataclasses
import math
from typing import Any

from absl import logging

from gpt1_jax import task_settings
from gpt1_jax.errors import UserError
from gpt1_jax.tasks.definition import Task
from gpt1_jax.tasks.readers import rows, sources
from gpt1_jax.tasks.readers.rows import Row

# Of the values to predict: float32 holds the sum of their squares.
_BOUNDS = (-1e15, 1e15)


@dataclasses.dataclass(frozen=True)
class Example:
  """The texts and the label of one row.

  Attributes:
    texts: in the order of `Task.texts`.
    choices: the answers; empty for kinds other than choice.
    label: class or answer number (int), value (float), or None if hidden.
    where: file and line, for error messages.
  """

  texts: tuple[str, ...]
  choices: tuple[str, ...] = ()
  label: int | float | None = None
  where: str = dataclasses.field(default='', compare=False, repr=False)


def read(task: Task, path: str | None, split: str) -> list[Example]:
  """Reads one split, in the order of its file.

  Drops rows without a label and logs how many. A test split in which no row
  has a label keeps all rows, with label None.

  Args:
    path: see `sources.read`.

  Raises:
    UserError: the files are not found, or a row cannot be used (names file,
      line and what is allowed).
  """
  origin, found = sources.read(task, path, split)
  hidden_allowed = split.startswith('test')
  needed = task.texts if hidden_allowed else (*task.texts, task.label)
  examples, num_cut = [], 0
  for row in found:
    if task.cut_rows and (row.extra or not row.cells.keys() >= set(needed)):
      num_cut += 1
      if not hidden_allowed:
        continue
      # The GLUE server expects a line for every row of a hidden test set.
      cells = {**dict.fromkeys(task.texts, ''), **row.cells}
      row = Row(row.where, cells)
    examples.append(example(task, row, hidden_allowed))
  if num_cut:
    done = 'completed' if hidden_allowed else 'dropped'
    logging.warning('%s: %d broken rows, %s', origin, num_cut, done)
  kept = [found for found in examples if found.label is not None]
  if not kept and hidden_allowed:
    kept = examples
  if not kept:
    raise UserError(f'{origin}: no row of split {split} has a label')
  if len(kept) < len(examples):
    logging.warning(
      '%s: %d rows without a label, dropped', origin, len(examples) - len(kept)
    )
  check_choices(kept)
  warn_of_empty(str(origin), kept)
  used = {found.label for found in kept}
  unused = [x for i, x in enumerate(task.labels) if i not in used]
  if split == 'train' and unused and task.kind != 'choice':
    logging.warning('%s: no row has the label %s', origin, ', '.join(unused))
  return kept


def example(task: Task, row: Row, hidden_allowed: bool) -> Example:
  """Turns one row into an example.

  Raises:
    UserError: the row has more cells than the header, a cell is unusable, or
      the label's column is missing and `hidden_allowed` is False.
  """
  cells = row.cells
  if row.extra:
    if not task.label_last:
      raise UserError(
        f'{row.where}: {len(row.extra)} cells more than columns; the first is '
        f'{rows.shown(row.extra[0])}. Quote texts with commas in a .csv, and '
        'take tabs out of a .tsv'
      )
    cells = {**cells, task.label: row.extra[-1]}
  texts = tuple(rows.text(row, column) for column in task.texts)
  choices: tuple[str, ...] = ()
  if task.kind == 'choice':
    given = cells.get(task.choices)
    if (
      not isinstance(given, list)
      or len(given) < 2
      or not all(isinstance(answer, str) for answer in given)
    ):
      raise UserError(
        f'{row.where}: {task.choices!r} must be a list of two or more texts'
      )
    choices = tuple(given)
  allowed = labels(task, len(choices))
  if task.label not in cells and not hidden_allowed:
    raise _bad_label(task, row.where, rows.lacking(row, task.label), allowed)
  value = cells.get(task.label)
  try:
    label = _label(task, value, allowed)
  except ValueError:
    problem = f'label {rows.shown(value)} in column {task.label!r}'
    raise _bad_label(task, row.where, problem, allowed) from None
  return Example(texts, choices, label, row.where)


def labels(task: Task, num_choices: int) -> tuple[str, ...]:
  """Returns the allowed spellings of a label; none for regression."""
  if task.kind != 'choice':
    return task.labels
  return (task.labels or tuple(map(str, range(num_choices))))[:num_choices]


def check_choices(examples: list[Example]) -> None:
  """Raises UserError if rows differ in their number of answers."""
  count = len(examples[0].choices)
  for found in examples:
    if len(found.choices) != count:
      raise UserError(
        f'{found.where}: {len(found.choices)} choices, and the first row has '
        f'{count}; all rows need the same number'
      )


def warn_of_empty(origin: str, examples: list[Example]) -> None:
  """Warns of examples without any text, which are used like the others."""
  empty = [
    x for x in examples if not any(map(str.strip, (*x.texts, *x.choices)))
  ]
  if empty:
    logging.warning(
      '%s: %d of %d examples have no text, the first in %s',
      origin,
      len(empty),
      len(examples),
      empty[0].where,
    )


def _label(
  task: Task, value: Any, allowed: tuple[str, ...]
) -> int | float | None:
  """Returns the number of the class or answer, the value, or None if hidden.

  This is the only place where labels become numbers.

  Raises:
    ValueError: the label is not allowed.
  """
  spelled = task_settings.label_key(value)
  spelled = dict(task.synonyms).get(spelled, spelled)
  keys = [task_settings.label_key(label) for label in allowed]
  if spelled in keys:
    return keys.index(spelled)
  low, high = task.bounds or _BOUNDS
  minus_one_is_a_value = task.regression and low <= -1
  if spelled in ('', '-') or (spelled == '-1' and not minus_one_is_a_value):
    return None
  if '_' in spelled:  # Python reads 1_5 as 15
    raise ValueError
  number = float(spelled)
  if (
    not task.regression
    or not math.isfinite(number)
    or not low <= number <= high
  ):
    raise ValueError
  return number


def _bad_label(
  task: Task, where: str, problem: str, spellings: tuple[str, ...]
) -> UserError:
  allowed = ', '.join(spellings)
  if task.regression:
    allowed = 'a number from {:g} to {:g}'.format(*task.bounds or _BOUNDS)
  if task.own and task.kind != 'choice':
    first = ', '.join(map(repr, task.labels[:2] or ('LABEL', 'LABEL')))
    allowed += f'; labels are set with --config.task.labels="({first}, ...)"'
  return UserError(f'{where}: {problem}; allowed: {allowed}')
