"""Reads rows of TFDS data sets without importing TensorFlow.

TFDS writes ArrayRecord files and reads them as a data source. It shuffles rows
when it writes; rows that carry their number are sorted by it here, so that
both sources of a task agree.
"""

import contextlib
import functools
from collections.abc import Iterator, Mapping
from typing import Any

import numpy as np

from gpt1_jax.errors import UserError, first_line
from gpt1_jax.tasks.readers import archives
from gpt1_jax.tasks.readers.archives import MissingError
from gpt1_jax.tasks.readers.rows import Cells, Row

_NUMBERS = ('idx', 'example_id')  # features that number rows: GLUE, RACE


def read(address: str, folder: str) -> list[Row]:
  """Reads all rows of a split.

  Args:
    address: 'NAME[/CONFIG]:SPLIT'.
    folder: folder where TFDS keeps its data sets; empty for its default. A
      data set that is absent is downloaded and written there.

  Returns:
    Rows of texts, numbers and lists. A class label appears twice: its name
    under its KEY, its number under 'KEY number'; a hidden one (-1) is None.

  Raises:
    MissingError: TFDS cannot provide the data set.
  """
  name, split = _parsed(address)
  with _failure_in_one_line(f'tfds:{address}'):
    builder = prepared_builder(name, folder)
    classes = {
      key: feature.names
      for key, feature in builder.info.features.items()
      if hasattr(feature, 'names')
    }
    source = builder.as_data_source(split=split)
    found = [_cells(values, classes) for values in source]
  for key in _NUMBERS:
    if found and key in found[0]:
      found.sort(key=lambda cells: archives.natural(str(cells[key])))
  return [
    Row(f'tfds:{address}#{number}', cells) for number, cells in enumerate(found)
  ]


def check(address: str, folder: str) -> None:
  """Downloads a data set if it is absent, and checks that it has the split.

  Raises:
    UserError: the address is malformed.
    MissingError: TFDS cannot provide the data set (quotes the first line of
      its message), or it has no such split.
  """
  name, split = _parsed(address)
  with _failure_in_one_line(f'tfds:{address}'):
    splits = prepared_builder(name, folder).info.splits
  if split.partition('[')[0] not in splits:
    raise MissingError(
      f'tfds:{address}: no such split; it has {", ".join(splits)}'
    )


def _parsed(address: str) -> tuple[str, str]:
  """Returns the name and the split of an address."""
  name, _, split = address.partition(':')
  if not name or not split:
    raise UserError(f'tfds:{address}: write NAME[/CONFIG]:SPLIT')
  return name, split


@functools.lru_cache(16)
def prepared_builder(name: str, folder: str) -> Any:
  """Returns TFDS's builder of a data set after writing it to disk."""
  import tensorflow_datasets as tfds  # slow to import
  import tensorflow_datasets.text.glue  # registers GLUE

  builder = tfds.builder(
    name, data_dir=folder or None, file_format='array_record'
  )
  with _numpy_types():
    builder.download_and_prepare(file_format='array_record')
  return builder


@contextlib.contextmanager
def _numpy_types() -> Iterator[None]:
  """Lets TFDS write lists of lists (RACE's options) without TensorFlow.

  TFDS asks TensorFlow only for the name of a type that NumPy has as well
  (tensorflow_datasets 4.9.10, example_serializer.py).
  """
  from tensorflow_datasets.core.features import feature

  original = feature.TensorInfo.dtype
  feature.TensorInfo.dtype = property(lambda info: info.np_dtype)
  try:
    yield
  finally:
    feature.TensorInfo.dtype = original


@contextlib.contextmanager
def _failure_in_one_line(where: str) -> Iterator[None]:
  try:
    yield
  except Exception as error:  # TFDS raises errors of many libraries
    raise MissingError(
      f'{where}: cannot be read ({first_line(error)}); set config.data.path to '
      'the files of the original archive instead'
    ) from None


def _cells(
  values: Mapping[str, object], classes: Mapping[str, list[str]]
) -> Cells:
  cells = {key: _plain(value) for key, value in values.items()}
  for key, names in classes.items():
    number = cells[key] if cells[key] >= 0 else None
    cells[key] = None if number is None else names[number]
    cells[f'{key} number'] = number
  return cells


def _plain(value: Any) -> Any:
  """Converts NumPy values and bytes to Python's numbers, texts and lists."""
  if isinstance(value, bytes):
    return value.decode('utf-8')
  if isinstance(value, np.generic):
    return _plain(value.item())
  if isinstance(value, np.ndarray | list):
    return [_plain(item) for item in value]
  return value
