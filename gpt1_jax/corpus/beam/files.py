"""Files of a Beam pipeline, local or on any file system that Beam supports.

A path without a scheme lies on this machine (or on a disk that all workers
share); gs://, hdfs:// and others go through Beam's FileSystems.
"""

import contextlib
import dataclasses
import json
import os
import pathlib
import posixpath
import shutil
import sys
import tempfile
import uuid
from collections.abc import Iterable, Iterator
from typing import IO, Any

from apache_beam.io import filesystem, filesystems
from apache_beam.options import pipeline_options

from gpt1_jax.corpus import documents
from gpt1_jax.errors import UserError

_UNCOMPRESSED = filesystem.CompressionTypes.UNCOMPRESSED


def _has_scheme(path: str) -> bool:
  return '://' in path


def find_inputs(specs: Iterable[str]) -> list[documents.Input]:
  """Like `documents.find_inputs`, and finds files on other file systems.

  Raises:
    UserError: also if a file system cannot be read.
  """
  inputs: list[documents.Input] = []
  for spec in specs:
    if _has_scheme(spec):
      for name in _match(spec):
        kind = documents.kind_of(name)
        assert kind, name
        inputs.append(documents.Input(kind, name))
    else:
      inputs += documents.find_inputs([spec])
  return list(dict.fromkeys(inputs))


def measure(specs: Iterable[str]) -> documents.InputSize:
  """Like `documents.measure`, with files on other file systems."""
  sizes: dict[str, int] = {}
  here: list[str] = []
  for spec in specs:
    if _has_scheme(spec):
      sizes |= _match(spec)
    else:
      here.append(spec)
  local = documents.measure(here)
  return {
    'files': local['files'] + len(sizes),
    'bytes': local['bytes'] + sum(sizes.values()),
  }


def _match(spec: str) -> dict[str, int]:
  """Finds the files of a spec that has a scheme: sorted path -> bytes."""
  patterns = [spec, posixpath.join(spec, '**')]  # a file or glob, or a folder
  with _one_line_errors(f'--input={spec}'):
    sizes = {
      file.path: file.size_in_bytes
      for result in filesystems.FileSystems.match(patterns)
      for file in result.metadata_list
      if documents.kind_of(file.path)
    }
  if not sizes:
    raise UserError(
      f'--input={spec}: no such file or folder, or none of a known kind'
    )
  return dict(sorted(sizes.items()))


@contextlib.contextmanager
def _one_line_errors(option: str) -> Iterator[None]:
  """Turns a file system's own errors into one line."""
  try:
    yield
  except (ImportError, OSError, ValueError) as error:
    line = ' '.join(str(error).split())
    raise UserError(
      f'{option}: cannot be reached ({line}); gs:// needs '
      "pip install 'apache-beam[gcp]'"
    ) from None


@contextlib.contextmanager
def local_copy(path: str) -> Iterator[str]:
  """Yields the path of a local file, or of a temporary copy of another."""
  if not _has_scheme(path):
    yield path
    return
  with tempfile.TemporaryDirectory() as directory:
    copy = os.path.join(directory, posixpath.basename(path))
    with open_file(path) as source, open(copy, 'wb') as target:
      shutil.copyfileobj(source, target)
    yield copy


def open_file(path: str) -> IO[bytes]:
  """Opens a file for reading, without decompressing it."""
  return filesystems.FileSystems.open(path, compression_type=_UNCOMPRESSED)


def move(path: str, target: pathlib.Path) -> None:
  """Moves a file to the disk of this machine."""
  if not _has_scheme(path):
    shutil.move(path, target)
    return
  with open_file(path) as source, target.open('wb') as file:
    shutil.copyfileobj(source, file)


@dataclasses.dataclass(frozen=True)
class Spool:
  """A folder that all workers share, for data between the two pipelines."""

  path: str

  def join(self, name: str) -> str:
    """Returns the path of a file, or the prefix of several."""
    return filesystems.FileSystems.join(self.path, name)

  def create(self, name: str) -> tuple[str, IO[bytes]]:
    """Creates a file with a unique suffix; returns its path and the file.

    So a step that a runner executes twice writes two files, and the pipeline
    passes on the path of one of them.
    """
    path = self.join(f'{name}-{uuid.uuid4().hex}')
    return path, filesystems.FileSystems.create(
      path, compression_type=_UNCOMPRESSED
    )

  def read_values(self, name: str) -> Iterator[Any]:
    """Reads the JSON lines of all files with this prefix."""
    (found,) = filesystems.FileSystems.match([self.join(name) + '-*'])
    for file in found.metadata_list:
      with open_file(file.path) as opened:
        yield from map(json.loads, opened)


@contextlib.contextmanager
def temporary_spool(
  options: pipeline_options.PipelineOptions, directory: pathlib.Path
) -> Iterator[Spool]:
  """Yields a spool in --temp_location, or else in `directory`; removes it.

  Raises:
    UserError: the folder cannot be reached, or its name is a pattern.
  """
  cloud = options.view_as(pipeline_options.GoogleCloudOptions)
  root = cloud.temp_location or str(directory)
  if set(root) & set('*?[]{}'):
    raise UserError(
      f'{root}: Beam reads * ? [ ] {{ }} in a path as a pattern; choose '
      'another --output or --temp_location'
    )
  with _one_line_errors(f'--temp_location={root}'):
    path = filesystems.FileSystems.join(root, f'prepare-{uuid.uuid4().hex}')
    filesystems.FileSystems.mkdirs(path)
    spool = Spool(path)
    _, file = spool.create('begun')  # in a bucket, a folder needs a file
    file.close()
  try:
    yield spool
  finally:
    try:
      filesystems.FileSystems.delete([path + '/' * _has_scheme(path)])
    except Exception as error:  # every file system raises errors of its own
      print(f'{path}: not removed, remove it ({error})', file=sys.stderr)
