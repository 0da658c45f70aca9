"""Reads the rows of a task's split from a file, RACE's tree or TFDS.

Rows have the columns that the `Task` names, wherever they come from.
"""

import dataclasses
import os
import pathlib
from collections.abc import Iterator

import numpy as np
from absl import logging

from gpt1_jax.errors import UserError
from gpt1_jax.tasks import table
from gpt1_jax.tasks.definition import Task
from gpt1_jax.tasks.readers import archives, rows, tfds_rows
from gpt1_jax.tasks.readers.rows import Row

# Seed with which the released code splits the validation file (C: train.py).
_DEV_SEED = 3535999445
_IDS = ('#1 ID', '#2 ID')  # columns of MRPC that identify a pair


def has(task: Task, path: str | None, split: str) -> bool:
  """Returns True if `read` would find this split.

  A data set that TFDS cannot provide is logged and counts as not found.
  """
  if split not in task.files:
    return False
  tfds = tfds_folder(path)
  if tfds is not None:
    addresses = task.tfds.get(split, ())
    try:
      return bool(addresses) and all(
        tfds_rows.has(address, tfds) for address in addresses
      )
    except UserError as error:
      logging.warning('%s is left out: %s', split, error)
      return False
  folder = folder_of(path)
  if task.layout == 'articles':
    return all(
      archives.find_all(folder, pattern, task.folder_names)
      for pattern in task.files[split]
    )
  return any(_find(task, folder, split))


def read(task: Task, path: str | None, split: str) -> tuple[str, Iterator[Row]]:
  """Returns the origin of a split, for messages, and its rows in order.

  Args:
    task: the task.
    path: the task's folder, its parent, or a zip or tar of either; 'tfds', or
      'tfds:FOLDER' with the folder where TFDS keeps its data sets.
    split: a key of `task.files`.

  Raises:
    UserError: the files are not found (says where it looked) or cannot be
      read.
  """
  if split not in task.files:
    raise UserError(
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
    found = _dev_share(list(found), task.dev_share, split)
  return origin, found


def tfds_folder(path: str | None) -> str | None:
  """Returns the folder of 'tfds:FOLDER', '' for 'tfds', None for a path."""
  scheme, _, folder = str(path or '').partition(':')
  return os.path.expanduser(folder) if scheme == 'tfds' else None


def folder_of(path: str | None) -> pathlib.Path:
  """Returns the folder or archive to search.

  Raises:
    UserError: no path is set.
  """
  if not path:
    raise UserError(
      "config.data.path is not set: give the folder, zip or tar of the task's "
      'files, or tfds'
    )
  return pathlib.Path(path).expanduser()


def _from_tfds(
  task: Task, folder: str, split: str
) -> tuple[str, Iterator[Row]]:
  """Reads TFDS; renames its features to the columns of the task."""
  addresses = task.tfds.get(split)
  if not addresses:
    raise UserError(
      f'task {task.name}: TFDS has no {split} split of it; set '
      'config.data.path to the files of the original archive'
    )

  def found() -> Iterator[Row]:
    for address in addresses:
      for row in tfds_rows.read(address, folder):
        if task.layout == 'articles':
          yield from rows.questions(row.cells, row.where)
        else:
          yield dataclasses.replace(row, cells=_renamed(task, row.cells))

  origin = ' and '.join(f'tfds:{address}' for address in addresses)
  return origin, rows.renumbered(found())


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
    found = archives.find_all(folder, pattern, task.folder_names)
    if not found:
      raise _not_found(task, folder, split, (pattern,))
    sources += found
  origin = f'{sources[0]} and {len(sources) - 1} more'
  return origin, rows.renumbered(rows.articles(sources))


def _from_file(
  task: Task, folder: pathlib.Path, split: str
) -> tuple[str, Iterator[Row]]:
  """Reads the split's file, or the rows that ids select from another file."""
  source, ids = _find(task, folder, split)
  held_out = None
  if ids is not None:
    held_out = {_pair(row) for row in rows.read(ids, _IDS, _IDS)}
    if split == 'dev':
      source, _ = _find(task, folder, 'train')
  if source is None:
    names = task.files[split] + (task.held_out if split == 'dev' else ())
    raise _not_found(task, folder, split, names)
  _check_folder(task, source)
  needed = rows.STORY if task.layout == 'stories' else task.texts
  if not split.startswith('test'):
    needed = (*needed, task.label)
  found = rows.read(source, needed, task.columns)
  if held_out is not None:
    dev = split == 'dev'
    found = (row for row in found if (_pair(row) in held_out) == dev)
  if task.layout == 'stories':
    found = (
      dataclasses.replace(row, cells=rows.story(row.cells)) for row in found
    )
  return str(source), found


def _pair(row: Row) -> tuple[str | None, ...]:
  return tuple(row.cells.get(column) for column in _IDS)


def _find(
  task: Task, path: pathlib.Path, split: str
) -> tuple[archives.Source | None, archives.Source | None]:
  """Finds the split's file, and the ids of held-out rows if they apply."""
  source = archives.find(path, task.files[split], task.folder_names)
  if not task.held_out or split not in ('train', 'dev'):
    return source, None
  if archives.find(path, task.files['dev'], task.folder_names):
    return source, None
  return source, archives.find(path, task.held_out, task.folder_names)


def _check_folder(task: Task, source: archives.Source) -> None:
  """Refuses the folder of another task, whose files may look alike."""
  if task.name not in table.TASKS:
    return
  for other in table.TASKS.values():
    names = {archives.same_name(name) for name in other.folders}
    if source.folder in names and other.name != task.name:
      raise UserError(
        f'{source}: this is the folder of task {other.name}, not of '
        f'{task.name}; set config.data.path'
      )


def _not_found(
  task: Task, folder: pathlib.Path, split: str, names: tuple[str, ...]
) -> UserError:
  looked = archives.looked_for(folder, names, task.folder_names)
  return UserError(f'no {split} file of task {task.name}: {looked}')


def _dev_share(found: list[Row], share: float, split: str) -> Iterator[Row]:
  """Yields the train or dev rows of a shared file, in the file's order.

  Draws as scikit-learn's train_test_split does with the released code's seed:
  374 of Story Cloze's 1,871 rows are dev (C: datasets.py).
  """
  count = round(len(found) * share)
  order = np.random.RandomState(_DEV_SEED).permutation(len(found))
  chosen = order[:count] if split == 'dev' else order[count:]
  return (found[i] for i in sorted(chosen))
