"""Finds and opens files on any file system that Beam supports.

A path without a scheme lies on this machine (or on a disk that all workers
share); gs://, hdfs:// and others go through Beam's FileSystems.
"""

import contextlib
import dataclasses
import hashlib
import json
import pathlib
import posixpath
import shutil
import sys
import tempfile
import uuid
from collections.abc import Iterable, Iterator
from typing import IO, Any, TypedDict

import fastavro  # comes with Beam
from apache_beam.io import filesystem, filesystems
from apache_beam.options import pipeline_options

from gpt1_jax.corpus import inputs
from gpt1_jax.errors import UserError

# The Avro schema of `Record`.
SCHEMA = {
  'type': 'record',
  'name': 'Document',
  'fields': [
    {'name': 'input', 'type': 'long'},
    {'name': 'number', 'type': 'long'},
    {'name': 'row', 'type': 'string'},
    {'name': 'content', 'type': 'bytes'},
  ],
}


class Record(TypedDict):
  """A document in the spool.

  Attributes:
    input, number: its position: which input, and which document there.
    row: its `DocumentRow`, as JSON.
    content: cleaned text in UTF-8, or tokens once it is encoded; empty for a
      copy of another document.
  """

  input: int
  number: int
  row: str
  content: bytes


def _has_scheme(path: str) -> bool:
  return '://' in path


def find(specs: Iterable[str]) -> list[inputs.Input]:
  """Finds inputs as `inputs.find` does, on every file system.

  Raises:
    UserError: see `inputs.find`; or a file system cannot be read.
  """
  found: list[inputs.Input] = []
  for spec in specs:
    found += _match(spec) if _has_scheme(spec) else inputs.find([spec])
  return list(dict.fromkeys(found))


def measure(specs: Iterable[str]) -> inputs.InputSize:
  """Measures as `inputs.measure` does, using the file systems' checksums."""
  specs = list(specs)
  sizes: dict[inputs.Input, int] = {}
  for spec in filter(_has_scheme, specs):
    sizes |= _match(spec)
  total = inputs.measure(spec for spec in specs if not _has_scheme(spec))
  if not sizes:
    return total
  checksums = [
    (found.name, filesystems.FileSystems.checksum(found.name))
    for found in sizes
  ]
  text = json.dumps([total['sha256'], checksums])
  return {
    'files': total['files'] + len(sizes),
    'bytes': total['bytes'] + sum(sizes.values()),
    'sha256': hashlib.sha256(text.encode()).hexdigest(),
  }


def _match(spec: str) -> dict[inputs.Input, int]:
  """Returns the files that a spec with a scheme matches, sorted, with sizes."""
  patterns = [spec, posixpath.join(spec, '**')]  # a file or a glob; a folder
  with _one_line_errors(f'--input={spec}'):
    sizes = {
      file.path: file.size_in_bytes
      for result in filesystems.FileSystems.match(patterns)
      for file in result.metadata_list
    }
  found = {
    inputs.Input(kind, name): sizes[name]
    for name in sorted(sizes)
    if (kind := inputs.kind_of(name))
  }
  if not found:
    raise UserError(
      f'--input={spec}: no such file or folder, or none of a known kind'
    )
  return found


@contextlib.contextmanager
def _one_line_errors(option: str) -> Iterator[None]:
  """Turns a file system's errors into a UserError of one line."""
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
  """Yields a local path: the file's own, or that of a temporary copy."""
  if not _has_scheme(path):
    yield path
    return
  with tempfile.TemporaryDirectory() as directory:
    target = pathlib.Path(directory) / posixpath.basename(path)
    with _open(path) as source, target.open('wb') as file:
      shutil.copyfileobj(source, file)
    yield str(target)


def _open(path: str) -> IO[bytes]:
  """Opens a file without decompressing it."""
  return filesystems.FileSystems.open(
    path, compression_type=filesystem.CompressionTypes.UNCOMPRESSED
  )


@dataclasses.dataclass(frozen=True)
class Spool:
  """A folder that passes data between the pipelines; all workers share it."""

  path: str

  def join(self, name: str) -> str:
    """Returns the path of a file, or the prefix of several."""
    return filesystems.FileSystems.join(self.path, name)

  def read_json(self, name: str) -> Iterator[Any]:
    """Reads the JSON lines of all files with this prefix."""
    for file in self._open_all(name):
      yield from map(json.loads, file)

  def read_avro(self, name: str) -> Iterator[Record]:
    """Reads the Avro records of all files with this prefix."""
    for file in self._open_all(name):
      yield from fastavro.reader(file)

  def _open_all(self, name: str) -> Iterator[IO[bytes]]:
    (found,) = filesystems.FileSystems.match([self.join(name) + '-*'])
    for match in found.metadata_list:
      with _open(match.path) as file:
        yield file


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
    # In a bucket, a folder needs a file.
    filesystems.FileSystems.create(spool.join('begun')).close()
  try:
    yield spool
  finally:
    try:
      filesystems.FileSystems.delete([path + '/' * _has_scheme(path)])
    except Exception as error:  # each file system raises its own errors
      print(f'{path}: not removed, remove it ({error})', file=sys.stderr)
