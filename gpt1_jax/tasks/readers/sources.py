"""Where the rows of a task's split come from: a file, RACE's tree, or TFDS.

Whatever it is, rows have the columns that the task's row of the table names.
"""

import os
import pathlib
from collections.abc import Iterator
from typing import Any

import numpy as np
from absl import logging

from gpt1_jax import errors
from gpt1_jax.tasks import table
from gpt1_jax.tasks.readers import archives, rows, tfds_rows

# Of the split of the validation file (C: train.py, --seed).
_DEV_SEED = 3535999445

# Number of the row in its file (header not counted), where it is, its cells.
Numbered = tuple[int, str, dict[str, Any]]


def has(task: table.Task, path: str | None, split: str) -> bool:
  """Whether `read` would find this split.

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
    except errors.UserError as error:
      logging.warning('%s is left out: %s', split, error)
      return False
  folder = folder_of(path)
  if task.layout == 'articles':
    return all(
      archives.find_all(folder, pattern, _folders(task))
      for pattern in task.files[split]
    )
  source, ids = _find(task, folder, split)
  return source is not None or ids is not None


def is_tfds(path: str | None) -> bool:
  """Whether config.data.path means TFDS."""
  return tfds_folder(path) is not None


def read(
  task: table.Task, path: str | None, split: str
) -> tuple[str, Iterator[Numbered]]:
  """What the split is read from, and its rows in order.

  Args:
    task: a row of the table.
    path: the task's folder, its parent, or a zip or tar of either; or `tfds`,
      or `tfds:FOLDER` where TFDS keeps its data sets in another place.
    split: a key of `task.files`.

  Raises:
    UserError: files not found (says what was looked for) or not readable.
  """
  if split not in task.files:
    raise errors.UserError(
      f'task {task.name} has no split {split!r}: {", ".join(task.files)}'
    )
  tfds = tfds_folder(path)
  if tfds is not None:
    origin, numbered = _from_tfds(task, tfds, split)
  elif task.layout == 'articles':
    origin, numbered = _from_articles(task, folder_of(path), split)
  else:
    origin, numbered = _from_file(task, folder_of(path), split)
  if task.dev_share and split in ('train', 'dev'):
    numbered = _share(list(numbered), task.dev_share, split)
  return origin, iter(numbered)


def tfds_folder(path: str | None) -> str | None:
  """TFDS's folder, '' for its own place, None where path is a path."""
  scheme, _, folder = str(path or '').partition(':')
  return os.path.expanduser(folder) if scheme == 'tfds' else None


def folder_of(path: str | None) -> pathlib.Path:
  """Where files are looked for.

  Raises:
    UserError: no path was given.
  """
  if not path:
    raise errors.UserError(
      "config.data.path is not set: give the folder, zip or tar of the task's "
      'files, or tfds'
    )
  return pathlib.Path(path).expanduser()


def _folders(task: table.Task) -> tuple[str, ...]:
  return task.folders or (task.name,)


def _from_tfds(
  task: table.Task, folder: str, split: str
) -> tuple[str, Iterator[Numbered]]:
  """Rows of TFDS under the names of the original files' columns."""
  addresses = task.tfds.get(split)
  if not addresses:
    raise errors.UserError(
      f'task {task.name}: TFDS has no {split} split of it; give the files of '
      'the original archive: config.data.path'
    )

  def found():
    for address in addresses:
      for i, row in enumerate(tfds_rows.read(address, folder)):
        where = f'tfds:{address}#{i}'
        if task.layout == 'articles':
          yield from rows.questions(row, where)
          continue
        for column, feature in zip(task.texts, task.tfds_texts, strict=False):
          row[column] = row.get(feature)
        if 'label' in row:
          name = row['label']
          # A class by its name, or else by its number.
          if name not in task.labels and 'label number' in row:
            name = row['label number']
          row[task.label] = name
        yield where, row

  origin = ' and '.join(f'tfds:{address}' for address in addresses)
  return origin, _number(found())


def _from_articles(
  task: table.Task, folder: pathlib.Path, split: str
) -> tuple[str, Iterator[Numbered]]:
  """Questions of all the files of all the patterns."""
  sources = []
  for pattern in task.files[split]:
    found = archives.find_all(folder, pattern, _folders(task))
    if not found:
      raise _not_found(task, folder, split, (pattern,))
    sources += found
  origin = f'{sources[0]} and {len(sources) - 1} more'
  return origin, _number(rows.articles(sources))


def _from_file(
  task: table.Task, folder: pathlib.Path, split: str
) -> tuple[str, Iterator[Numbered]]:
  """Rows of the split's file, or those that ids hold out of another."""
  source, ids = _find(task, folder, split)
  held_out = None
  if ids is not None:
    held_out = {
      (row['#1 ID'], row.get('#2 ID'))
      for _, row in rows.read(ids, ('#1 ID', '#2 ID'), ('#1 ID', '#2 ID'))
    }
    if split == 'dev':
      source, _ = _find(task, folder, 'train')
  if source is None:
    names = task.files[split] + (task.held_out if split == 'dev' else ())
    raise _not_found(task, folder, split, names)
  _check_folder(task, source)
  stories = task.layout == 'stories'
  needed = rows.STORY if stories else task.texts
  if not split.startswith('test'):
    needed = (*needed, task.label)

  def found():
    for number, (line, row) in enumerate(
      rows.read(source, needed, task.columns)
    ):
      if held_out is not None:
        pair = (row.get('#1 ID'), row.get('#2 ID'))
        if (pair in held_out) != (split == 'dev'):
          continue
      yield number, f'{source}:{line}', rows.story(row) if stories else row

  return str(source), found()


def _find(
  task: table.Task, path: pathlib.Path, split: str
) -> tuple[archives.Source | None, archives.Source | None]:
  """The split's own file, and the ids of held-out rows where these serve."""
  source = archives.find(path, task.files[split], _folders(task))
  if not task.held_out or split not in ('train', 'dev'):
    return source, None
  if archives.find(path, task.files['dev'], _folders(task)):
    return source, None
  return source, archives.find(path, task.held_out, _folders(task))


def _check_folder(task: table.Task, source: archives.Source) -> None:
  """Files of two tasks can look alike; their folder tells them apart."""
  if task.name not in table.TASKS:
    return
  for other in table.TASKS.values():
    names = {archives.same_name(name) for name in other.folders}
    if source.folder in names and other.name != task.name:
      raise errors.UserError(
        f'{source}: this is the folder of task {other.name}, not of '
        f'{task.name}; set config.data.path'
      )


def _not_found(
  task: table.Task, folder: pathlib.Path, split: str, names: tuple[str, ...]
) -> errors.UserError:
  looked = archives.looked_for(folder, names, _folders(task))
  return errors.UserError(f'no {split} file of task {task.name}: {looked}')


def _share(
  numbered: list[Numbered], share: float, split: str
) -> list[Numbered]:
  """Train or dev rows of one file, in the file's order.

  The rows that scikit-learn's train_test_split makes of the released code's
  seed: 374 of 1,871 are dev (C: datasets.py).
  """
  count = round(len(numbered) * share)
  order = np.random.RandomState(_DEV_SEED).permutation(len(numbered))
  chosen = order[:count] if split == 'dev' else order[count:]
  return [numbered[i] for i in sorted(chosen)]


def _number(found: Iterator[tuple[str, dict[str, Any]]]) -> Iterator[Numbered]:
  return ((number, *row) for number, row in enumerate(found))
