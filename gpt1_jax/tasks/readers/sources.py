"""Reads the rows of a task's split from a file, RACE's tree or TFDS.

Rows have the columns that the `Task` names, wherever they come from.
"""

import dataclasses
import pathlib
from collections.abc import Iterator

import numpy as np
from absl import logging

from gpt1_jax import storage
from gpt1_jax.errors import UserError
from gpt1_jax.tasks import table
from gpt1_jax.tasks.definition import OWN_FILES, Task
from gpt1_jax.tasks.readers import archives, rows, tfds_rows
from gpt1_jax.tasks.readers.archives import MissingError
from gpt1_jax.tasks.readers.rows import Row

# Seed with which the released code splits the validation file (C: train.py).
_DEV_SEED = 3535999445
_IDS = ('#1 ID', '#2 ID')  # columns of MRPC that identify a pair


def has(task: Task, path: str | None, split: str) -> bool:
  """Returns True if `read` finds this split; logs what TFDS cannot provide."""
  try:
    read(task, path, split)
  except MissingError as error:
    if tfds_folder(path) is not None and split in task.tfds:
      logging.warning('%s is left out: %s', split, error)
    return False
  return True


def read(task: Task, path: str | None, split: str) -> tuple[str, Iterator[Row]]:
  """Returns the origin of a split, for messages, and its rows in order.

  Args:
    path: the task's folder, its parent, or a zip or tar of either; 'tfds', or
      'tfds:FOLDER' with the folder where TFDS keeps its data sets.

  Raises:
    MissingError: the files are not found; says where it looked.
    UserError: they cannot be read.
  """
  if split not in task.files:
    raise MissingError(
      f'task {task.name} has no split {split!r}: choose one of '
      + ', '.join(task.files)
    )
  tfds = tfds_folder(path)
  if tfds is not None:
    origin, found = _from_tfds(task, tfds, split)
  elif task.layout == 'articles':
    origin, found = _from_articles(task, folder_of(path), split)
  else:
    origin, found = _from_file(task, folder_of(path), split)
  if task.dev_share and split in ('train', 'dev'):
    found = _dev_share(found, task.dev_share, split)
  return origin, found


def tfds_folder(path: str | None) -> str | None:
  """Returns the folder of 'tfds:FOLDER', '' for 'tfds', None for a path."""
  scheme, _, folder = str(path or '').partition(':')
  return storage.expanded(folder) if scheme == 'tfds' else None


def folder_of(path: str | None) -> pathlib.Path:
  """Returns the folder or archive to search; raises UserError if unset."""
  if not path:
    raise UserError(
      "config.data.path is not set: give the folder, zip or tar of the task's "
      'files, or tfds'
    )
  return pathlib.Path(storage.expanded(path))


def _from_tfds(
  task: Task, folder: str, split: str
) -> tuple[str, Iterator[Row]]:
  """Reads TFDS; renames its features to the columns of the task."""
  addresses = task.tfds.get(split)
  if not addresses:
    raise MissingError(
      f'task {task.name}: TFDS lacks its {split} split; set '
      'config.data.path to the files of the original archive'
    )
  for address in addresses:
    tfds_rows.check(address, folder)

  def found() -> Iterator[Row]:
    for address in addresses:
      for row in tfds_rows.read(address, folder):
        if task.layout == 'articles':
          yield from rows.questions(row.cells, row.where)
        else:
          yield dataclasses.replace(row, cells=_renamed(task, row.cells))

  return ' and '.join(f'tfds:{address}' for address in addresses), found()


def _renamed(task: Task, cells: rows.Cells) -> rows.Cells:
  cells = dict(cells)
  for column, feature in zip(task.texts, task.tfds_texts, strict=False):
    cells[column] = cells.get(feature)
  if 'label' in cells:
    name = cells['label']
    # A task spells its classes by TFDS's names or else by their numbers.
    if name not in task.labels:
      name = cells.get('label number', name)
    cells[task.label] = name
  return cells


def _from_articles(
  task: Task, folder: pathlib.Path, split: str
) -> tuple[str, Iterator[Row]]:
  """Reads the questions of all files of all the split's patterns."""
  sources = []
  for pattern in task.files[split]:
    found = archives.find(folder, (pattern,), task.folder_names)
    if not found:
      raise _missing(task, folder, split, (pattern,))
    sources += found
  return f'{sources[0]} and {len(sources) - 1} more', rows.articles(sources)


def _from_file(
  task: Task, folder: pathlib.Path, split: str
) -> tuple[str, Iterator[Row]]:
  """Reads the split's file, or the rows that ids select from another file."""
  names = task.files[split]
  source = _first(task, folder, names)
  held_out = None
  if (
    task.held_out
    and split in ('train', 'dev')
    and not _first(task, folder, task.files['dev'])
    and (ids := _first(task, folder, task.held_out))
  ):
    held_out = {_pair(row) for row in rows.read(ids, _IDS, _IDS)}
    source = _first(task, folder, task.files['train'])
  if source is None:
    names += task.held_out if split == 'dev' else ()
    raise _missing(task, folder, split, names)
  _check_folder(task, source)
  _check_alone(task, folder, source, names)
  needed = rows.STORY if task.layout == 'stories' else task.texts
  if not split.startswith('test'):
    needed = (*needed, task.label)
  found = rows.read(source, needed, task.columns)
  if held_out is not None:
    found = (r for r in found if (_pair(r) in held_out) == (split == 'dev'))
  if task.layout == 'stories':
    found = (dataclasses.replace(r, cells=rows.story(r.cells)) for r in found)
  return str(source), found


def _pair(row: Row) -> tuple[str | None, ...]:
  return tuple(row.cells.get(column) for column in _IDS)


def _first(
  task: Task, folder: pathlib.Path, names: tuple[str, ...]
) -> archives.Source | None:
  return next(iter(archives.find(folder, names, task.folder_names)), None)


def _check_folder(task: Task, source: archives.Source) -> None:
  """Raises UserError for another task's folder, whose files may look alike."""
  if task.name not in table.TASKS:
    return
  for other in table.TASKS.values():
    names = {archives.same_name(name) for name in other.folders}
    if source.folder in names and other.name != task.name:
      raise UserError(
        f'{source}: this is the folder of task {other.name}, not of '
        f'{task.name}; set config.data.path'
      )


def _check_alone(
  task: Task,
  folder: pathlib.Path,
  source: archives.Source,
  names: tuple[str, ...],
) -> None:
  """Raises UserError if a user's task has the same split in two files.

  The paper's tasks may: their `files` say which one is read.
  """
  if task.files != OWN_FILES:
    return
  for name in names:
    other = _first(task, folder, (name,))
    if other and other != source:
      raise UserError(
        f'{other}: {source} holds this split, too; keep one of them, or name '
        'it in config.task.files'
      )


def _missing(
  task: Task, folder: pathlib.Path, split: str, names: tuple[str, ...]
) -> MissingError:
  what = f'{split} file of task {task.name}'
  return archives.missing(what, folder, names, task.folder_names)


def _dev_share(found: Iterator[Row], share: float, split: str) -> Iterator[Row]:
  """Yields the train or dev rows of a shared file, in the file's order.

  Draws as scikit-learn's train_test_split does with the released code's seed:
  374 of Story Cloze's 1,871 rows are dev (C: datasets.py).
  """
  whole = list(found)
  count = round(len(whole) * share)
  order = np.random.RandomState(_DEV_SEED).permutation(len(whole))
  chosen = order[:count] if split == 'dev' else order[count:]
  yield from (whole[i] for i in sorted(chosen))
