"""Where a Beam pipeline's files lie: here, or on any file system Beam knows.

Paths without a scheme are those of this machine (or of a disk that all workers
share); gs://, hdfs:// and the like go through Beam's FileSystems.
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
from collections.abc import Iterator
from typing import IO, Any

from apache_beam.io import filesystem, filesystems
from apache_beam.options import pipeline_options

from gpt1_jax.corpus import documents
from gpt1_jax.errors import UserError

_AS_IT_IS = filesystem.CompressionTypes.UNCOMPRESSED


def is_remote(path: str) -> bool:
  """Whether a path has a scheme, such as gs://."""
  return '://' in path


def inputs(specs: list[str]) -> list[tuple[str, str]]:
  """As `corpus.inputs`, with folders and globs of other file systems.

  Raises:
    UserError: as there, or a file system cannot be read.
  """
  out: list[tuple[str, str]] = []
  for spec in specs:
    if is_remote(spec):
      out += [(documents.kind_of(name), name) for name in _match(spec)]
    else:
      out += documents.inputs([spec])
  return list(dict.fromkeys(out))


def measure(specs: list[str]) -> dict[str, int]:
  """As `corpus.measure`, with files of other file systems."""
  sizes: dict[str, int] = {}
  for spec in specs:
    if is_remote(spec):
      sizes |= _match(spec)
  local = documents.measure([spec for spec in specs if not is_remote(spec)])
  return {
    'files': local['files'] + len(sizes),
    'bytes': local['bytes'] + sum(sizes.values()),
  }


def _match(spec: str) -> dict[str, int]:
  """Files of a spec with a scheme, sorted, and their bytes."""
  patterns = [spec, posixpath.join(spec, '**')]  # a glob or file, or a folder
  with _told(f'--input={spec}'):
    found = [
      file
      for result in filesystems.FileSystems.match(patterns)
      for file in result.metadata_list
    ]
  sizes = {
    file.path: file.size_in_bytes
    for file in found
    if documents.kind_of(file.path)
  }
  if not sizes:
    raise UserError(
      f'--input={spec}: no such file or folder, or none of a known kind'
    )
  return dict(sorted(sizes.items()))


@contextlib.contextmanager
def _told(what: str) -> Iterator[None]:
  """A file system's own errors become one line."""
  try:
    yield
  except (ImportError, OSError, ValueError) as error:
    line = ' '.join(str(error).split())
    raise UserError(
      f'{what}: cannot be reached ({line}); gs:// needs '
      "pip install 'apache-beam[gcp]'"
    ) from None


@contextlib.contextmanager
def local_copy(path: str) -> Iterator[str]:
  """The file itself if it lies here, else a copy for the time being."""
  if not is_remote(path):
    yield path
    return
  with tempfile.TemporaryDirectory() as directory:
    copy = os.path.join(directory, posixpath.basename(path))
    with open_file(path) as source, open(copy, 'wb') as target:
      shutil.copyfileobj(source, target)
    yield copy


def open_file(path: str) -> IO[bytes]:
  """Opens a file for reading, as it is (compressed or not)."""
  return filesystems.FileSystems.open(path, compression_type=_AS_IT_IS)


def fetch(path: str, target: pathlib.Path) -> None:
  """Moves a file to this machine's disk."""
  if not is_remote(path):
    shutil.move(path, target)
    return
  with open_file(path) as source, target.open('wb') as file:
    shutil.copyfileobj(source, file)


@dataclasses.dataclass(frozen=True)
class Spool:
  """A folder that all workers reach, for what waits between two pipelines."""

  path: str

  def of(self, name: str) -> str:
    """The path of a file, or the beginning of the names of several."""
    return filesystems.FileSystems.join(self.path, name)

  def create(self, name: str) -> tuple[str, IO[bytes]]:
    """A new file and its path, which has a name of its own at each call.

    Work that a runner does twice makes two files, and one of them counts.
    """
    path = self.of(f'{name}-{uuid.uuid4().hex}')
    return path, filesystems.FileSystems.create(
      path, compression_type=_AS_IT_IS
    )

  def values(self, name: str) -> Iterator[Any]:
    """JSON lines of all files whose names begin so."""
    (found,) = filesystems.FileSystems.match([self.of(name) + '-*'])
    for file in found.metadata_list:
      with open_file(file.path) as opened:
        yield from map(json.loads, opened)


@contextlib.contextmanager
def spool(
  options: pipeline_options.PipelineOptions, beside: pathlib.Path
) -> Iterator[Spool]:
  """A spool under --temp_location, or else in `beside`; gone afterwards."""
  cloud = options.view_as(pipeline_options.GoogleCloudOptions)
  root = cloud.temp_location or str(beside)
  if set(root) & set('*?[]{}'):
    raise UserError(
      f'{root}: Beam takes * ? [ ] {{ }} in a path for a pattern; choose '
      'another --output or --temp_location'
    )
  with _told(f'--temp_location={root}'):
    path = filesystems.FileSystems.join(root, f'prepare-{uuid.uuid4().hex}')
    filesystems.FileSystems.mkdirs(path)
    made = Spool(path)
    _, file = made.create('begun')  # in a bucket it is this that makes it
    file.close()
  try:
    yield made
  finally:
    try:
      filesystems.FileSystems.delete([path + '/' * is_remote(path)])
    except Exception as error:  # each file system raises its own
      print(f'{path}: left behind, remove it ({error})', file=sys.stderr)
