"""Data from a bucket on this machine's disk: copied once, checked, kept.

Shards are read at random and their tokens mapped into memory, which wants a
disk. All processes of a machine share one copy: the first makes it, the others
wait. It lies under another name until every file has its checksum, and has a
name that is made of the checksums, so what is found is what was asked for.
"""

import base64
import concurrent.futures
import contextlib
import dataclasses
import fcntl
import hashlib
import json
import os
import pathlib
import shutil
import sys
from collections.abc import Iterator

from absl import flags

from gpt1_jax import storage
from gpt1_jax.corpus import shards as shards_lib
from gpt1_jax.errors import UserError

STAGE_TO = flags.DEFINE_string(
  'stage_to',
  '~/.cache/gpt1_jax',
  'Folder of this machine into which data in a bucket (gs://) is copied; what '
  'lies there is used again.',
)
_AT_A_TIME = 16  # files; many are small
_PIECE = 1 << 20


@dataclasses.dataclass(frozen=True)
class _Copy:
  """What is copied.

  Attributes:
    path: as it was given, for messages.
    source: the folder in the bucket.
    files: below it: name -> bytes, algorithm and digest (None: not known).
    folder: where they go, in a folder of their own.
    written: file -> content, of what has been read already.
  """

  path: str
  source: str
  files: dict[str, tuple[int, str, str | None]]
  folder: str = ''
  written: dict[str, bytes] = dataclasses.field(default_factory=dict)

  @property
  def size(self) -> int:
    return sum(size for size, _, _ in self.files.values())

  def is_in(self, place: pathlib.Path) -> bool:
    """Whether all is there; sums were checked before it got its name."""
    sizes = {name: size for name, (size, _, _) in self.files.items()}
    sizes |= {name: len(content) for name, content in self.written.items()}
    files = {place / self.folder / name: size for name, size in sizes.items()}
    return all(
      file.is_file() and file.stat().st_size == size
      for file, size in files.items()
    )

  def into(self, place: pathlib.Path) -> None:
    """Copies all into an empty folder."""
    target = place / self.folder
    with concurrent.futures.ThreadPoolExecutor(_AT_A_TIME) as pool:
      jobs = [
        pool.submit(_fetch, f'{self.source}/{name}', target / name, *facts)
        for name, facts in self.files.items()
      ]
      try:
        for job in jobs:
          job.result()
      except BaseException:
        pool.shutdown(cancel_futures=True)
        raise
    for name, content in self.written.items():
      (target / name).write_bytes(content)


def shards(path: str) -> str:
  """Where prepared shards can be read: `path`, or this machine's copy.

  Every file is compared with the sha256 in meta.json while it is copied.

  Raises:
    UserError: no shards there, a file that is missing or differs, no room.
  """
  if not storage.is_remote(path):
    return path
  meta = shards_lib.read_meta(path)
  content = (storage.of(path) / shards_lib.META).read_bytes()
  files = {
    name: (facts['bytes'], 'sha256', facts['sha256'])
    for name, facts in meta['files'].items()
  }
  copy = _Copy(path, path, files, written={shards_lib.META: content})
  return str(_stage(copy, f'shards-{hashlib.sha256(content).hexdigest()[:20]}'))


def files(path: str | None) -> str | None:
  """Where files without a meta.json can be read: `path`, or a copy here.

  Args:
    path: of tasks, or of released weights; a folder in a bucket is copied with
      all below it, an archive alone. Files are compared with the bucket's
      MD5 sums, where it has them.

  Raises:
    UserError: nothing there, a file that differs, no room.
  """
  if not storage.is_remote(path):
    return path
  found = storage.objects(storage.of(path))
  if not found:
    raise UserError(f'{path}: no such file or folder in the bucket')
  wanted = {
    name: (
      facts['size'],
      'md5',  # what a bucket keeps: it tells accidents, not attacks
      base64.b64decode(facts['md5']).hex() if facts['md5'] else None,
    )
    for name, facts in found.items()
  }
  # The last part of the path is kept: a task may be known by its folder.
  source, _, last = path.rstrip('/').rpartition('/')
  copy = _Copy(path, path, wanted, folder=last)
  if '' in wanted:  # an archive
    copy = _Copy(path, source, {last: wanted['']})
  key = hashlib.sha256(json.dumps([path, wanted]).encode()).hexdigest()
  return str(_stage(copy, f'files-{key[:20]}') / last)


def _stage(copy: _Copy, name: str) -> pathlib.Path:
  """The folder `name` of --stage_to, made unless it is there and whole."""
  top = pathlib.Path(STAGE_TO.value).expanduser()
  place, incomplete = top / name, top / f'{name}.incomplete'
  try:
    top.mkdir(parents=True, exist_ok=True)
    with _alone(top / f'{name}.lock'):
      if copy.is_in(place):
        return place
      # What is left of a copy that was ended, or that somebody has changed.
      for old in (incomplete, place):
        shutil.rmtree(old, ignore_errors=True)
      _check_room(copy.path, top, copy.size)
      print(
        f'{copy.path}: copying {copy.size / 1e6:,.1f} MB to {place}',
        file=sys.stderr,
        flush=True,
      )
      incomplete.mkdir()
      try:
        copy.into(incomplete)
        os.replace(incomplete, place)
      except BaseException:
        shutil.rmtree(incomplete, ignore_errors=True)
        raise
  except (PermissionError, NotADirectoryError, FileExistsError) as error:
    raise UserError(
      f'{copy.path}: cannot be copied to {top} ({error.strerror}); name '
      'another folder with --stage_to'
    ) from None
  return place


def _check_room(path: str, top: pathlib.Path, wanted: int) -> None:
  free = shutil.disk_usage(top).free
  if wanted > free:
    raise UserError(
      f'{path}: {wanted / 1e9:.1f} GB do not fit on the disk of {top}, which '
      f'has {free / 1e9:.1f} GB free; make room, or name another folder with '
      '--stage_to'
    )


@contextlib.contextmanager
def _alone(lock: pathlib.Path) -> Iterator[None]:
  """Waits for the other processes of this machine; ends with this one."""
  with lock.open('w') as file:
    fcntl.flock(file, fcntl.LOCK_EX)
    yield


def _fetch(
  source: str,
  target: pathlib.Path,
  size: int,
  algorithm: str,
  wanted: str | None,
) -> None:
  """Copies one file.

  Raises:
    UserError: it is missing or another than it should be.
  """
  target.parent.mkdir(parents=True, exist_ok=True)
  digest = hashlib.new(algorithm, usedforsecurity=False)
  count = 0
  try:
    with storage.of(source).open('rb') as opened, target.open('wb') as file:
      while piece := opened.read(_PIECE):
        digest.update(piece)
        count += file.write(piece)
  except FileNotFoundError:
    raise UserError(f'{source}: missing; copy the data there again') from None
  if count != size:
    raise UserError(
      f'{source}: {count} bytes, {size} expected; copy the data there again'
    )
  if wanted and digest.hexdigest() != wanted:
    raise UserError(
      f'{source}: its {algorithm} differs; copy the data there again'
    )
