"""Rows of a TFDS data set as plain dicts, without TensorFlow.

TFDS writes ArrayRecord files and reads them as a data source. It shuffles the
rows when it writes; where they carry a number, they come in its order, so
that both sources of a task agree.
"""

import contextlib
import functools
import re
from collections.abc import Iterator
from typing import Any

import numpy as np

from gpt1_jax.errors import UserError
from gpt1_jax.tasks.readers import archives

ADDRESS = re.compile(r'([^:]+):((?:[^:\[]|\[[^\]]*\])+)')
_ORDER = ('idx', 'example_id')  # GLUE's and RACE's numbers of rows


def read(address: str, folder: str) -> list[dict[str, Any]]:
  """All rows of a split.

  Args:
    address: 'NAME[/CONFIG]:SPLIT'.
    folder: where TFDS keeps its data sets; empty: its own place. A data set
      that is not there is downloaded and written.

  Returns:
    Dicts of texts, numbers and lists. A class label is its name, and
    `KEY number` (such as `label number`) its number; -1 is None in both.

  Raises:
    UserError: TFDS cannot provide it; the message has its first line.
  """
  match = ADDRESS.fullmatch(address)
  if not match:
    raise UserError(f'tfds:{address}: NAME[/CONFIG]:SPLIT is wanted')
  name, split = match.groups()
  with _one_line(f'tfds:{address}'):
    builder = prepared_builder(name, folder)
    source = builder.as_data_source(split=split)
    classes = {
      key: feature.names
      for key, feature in builder.info.features.items()
      if hasattr(feature, 'names')
    }
    rows = [_row(row, classes) for row in source]
  for key in _ORDER:
    if rows and key in rows[0]:
      rows.sort(key=lambda row: archives.natural(str(row[key])))
  return rows


def has(address: str, folder: str) -> bool:
  """Whether the data set has this split (downloading it, where absent)."""
  name, _, split = address.partition(':')
  with _one_line(f'tfds:{address}'):
    return split.partition('[')[0] in prepared_builder(name, folder).info.splits


@functools.lru_cache(16)
def prepared_builder(name: str, folder: str) -> Any:
  """A builder whose data set is on disk."""
  import tensorflow_datasets as tfds  # slow to import
  import tensorflow_datasets.text.glue  # else GLUE is not known by name

  builder = tfds.builder(
    name, data_dir=folder or None, file_format='array_record'
  )
  with _numpy_types():
    builder.download_and_prepare(file_format='array_record')
  return builder


@contextlib.contextmanager
def _numpy_types() -> Iterator[None]:
  """Lets TFDS write lists of lists (RACE's options) without TensorFlow.

  All it wants of TensorFlow there is the name of a type that it has as
  NumPy's, too (tensorflow_datasets 4.9.10, example_serializer.py).
  """
  from tensorflow_datasets.core.features import feature

  given = feature.TensorInfo.dtype
  feature.TensorInfo.dtype = property(lambda info: info.np_dtype)
  try:
    yield
  finally:
    feature.TensorInfo.dtype = given


@contextlib.contextmanager
def _one_line(where: str) -> Iterator[None]:
  try:
    yield
  except Exception as error:  # TFDS raises its own and everybody's
    first = (str(error).strip() or type(error).__name__).splitlines()[0]
    raise UserError(
      f'{where}: cannot be read ({first}); give the files of the original '
      'archive instead: config.data.path'
    ) from None


def _row(row: dict[str, Any], classes: dict[str, list[str]]) -> dict[str, Any]:
  out = {key: _plain(value) for key, value in row.items()}
  for key, names in classes.items():
    number = out[key] if out[key] >= 0 else None
    out[key] = None if number is None else names[number]
    out[f'{key} number'] = number
  return out


def _plain(value: Any) -> Any:
  if isinstance(value, bytes):
    return value.decode('utf-8')
  if isinstance(value, np.generic):
    return _plain(value.item())
  if isinstance(value, np.ndarray | list):
    return [_plain(item) for item in value]
  return value
