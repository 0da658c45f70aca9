"""Finds the files of a task in folders, zips and tars without unpacking.

A file is searched in the given folder, in subfolders named after the task,
and in the archives found there.
"""

import contextlib
import dataclasses
import functools
import itertools
import pathlib
import re
import tarfile
import zipfile
import zlib
from collections.abc import Callable, Iterator, Sequence
from typing import IO

from gpt1_jax.errors import UserError

MAX_BYTES = 2**26  # of a line, or of a file of RACE
_SUFFIXES = ('.zip', '.tar.gz', '.tgz', '.tar')
_DAMAGE = (
  zipfile.BadZipFile,
  tarfile.TarError,
  zlib.error,
  EOFError,
  OSError,  # includes gzip.BadGzipFile
  RuntimeError,  # an encrypted member, or a compression zipfile lacks
  UnicodeDecodeError,  # the name of a member
)


class MissingError(UserError):
  """Raised if a split's files are missing; says which places were searched."""


@dataclasses.dataclass(frozen=True)
class Source:
  """A file: plain if `member` is empty, else a member of the archive `path`."""

  path: pathlib.Path
  member: str = ''

  def __str__(self) -> str:
    return f'{self.path}/{self.member}' if self.member else str(self.path)

  @property
  def name(self) -> str:
    """File name without folders."""
    return pathlib.PurePosixPath(str(self)).name

  @property
  def folder(self) -> str:
    """Name of the folder that holds the file, normalised by `same_name`."""
    return same_name(pathlib.PurePosixPath(str(self)).parent.name)

  @contextlib.contextmanager
  def open(self) -> Iterator[IO[bytes]]:
    """Opens the file; raises UserError if it cannot be read."""
    if not self.member:
      if self.path.exists() and not self.path.is_file():
        raise UserError(f'{self.path}: not a file')
      with self.path.open('rb') as stream:
        yield stream
      return
    with _members(self.path) as members:
      open_member = next(m for name, m in members if name == self.member)
      with open_member() as stream:
        yield stream


def same_name(name: str) -> str:
  """Normalises a folder name: `SST-2`, `sst2` and `glue-sst2` are equal."""
  return re.sub('[^a-z0-9]', '', name.lower()).removeprefix('glue')


def check_size(data: bytes, where: str) -> None:
  """Raises UserError above `MAX_BYTES`, as for a decompression bomb."""
  if len(data) > MAX_BYTES:
    raise UserError(
      f'{where}: longer than {MAX_BYTES >> 20} MiB, too long for an example'
    )


def natural(text: str) -> list[tuple[int, str]]:
  """Returns a sort key that puts `2.txt` before `10.txt`."""
  parts = re.split('([0-9]+)', text)  # every second one is a number
  return [(int(p) if n % 2 else -1, p) for n, p in enumerate(parts)]


def find(
  path: pathlib.Path, names: Sequence[str], folders: Sequence[str]
) -> list[Source]:
  """Returns all matches of one name in one place, the first that has any.

  Args:
    names: file names, perhaps with `*` and with folders before them:
      `train/middle/*.txt`. Hidden files never match.
    folders: names of the folder (or archive) the task is distributed in,
      compared by `same_name`. The places are `path`, `path/FOLDER` and
      `path/*/FOLDER`; then the archives in these folders, those named FOLDER
      before others that contain a FOLDER.

  Returns:
    The files in natural order; empty if no place has any.

  Raises:
    UserError: `path` does not exist, or is neither a folder nor an archive.
  """
  if not path.exists():
    raise UserError(f'{path}: no such file or folder; set config.data.path')
  if not path.is_dir() and not _is_archive(path):
    raise UserError(
      f'{path}: neither a folder nor a zip or tar; set config.data.path'
    )
  wanted = {same_name(folder) for folder in folders}
  for search in (_in_folders, _in_archives):
    for name in names:
      if found := search(path, name, wanted):
        return sorted(found, key=lambda source: natural(str(source)))
  return []


def missing(
  what: str, path: pathlib.Path, names: Sequence[str], folders: Sequence[str]
) -> MissingError:
  """Returns the error that says where `find` looked for a file."""
  files = ' or '.join(names)
  if not path.is_dir():
    return MissingError(f'no {what}: looked in {path} for {files}')
  inside = ', '.join(f'{folder}/, */{folder}/' for folder in folders)
  return MissingError(
    f'no {what}: looked for {files} in {path}, in its folders {inside}, and in '
    'zips and tars of that name or with such a folder inside'
  )


def contents(sources: Sequence[Source]) -> Iterator[tuple[Source, bytes]]:
  """Yields each file with its bytes; reads each archive once.

  Raises:
    UserError: an archive is damaged.
  """
  for path, group in itertools.groupby(sources, lambda source: source.path):
    files = list(group)
    if not files[0].member:
      yield from ((file, file.path.read_bytes()) for file in files)
      continue
    data = dict.fromkeys((file.member for file in files), b'')
    with _members(path) as members:
      for name, open_member in members:
        if name in data:
          with open_member() as stream:
            data[name] = stream.read(MAX_BYTES + 1)
          check_size(data[name], f'{path}/{name}')
    yield from ((file, data[file.member]) for file in files)


def _in_folders(
  path: pathlib.Path, pattern: str, wanted: set[str]
) -> list[Source]:
  """Searches plain files; see `find`."""
  for place in _places(path, wanted):
    files = [file for file in place.glob(pattern) if file.is_file()]
    if found := [Source(f) for f in files if not f.name.startswith('.')]:
      return found
  return []


def _in_archives(
  path: pathlib.Path, pattern: str, wanted: set[str]
) -> list[Source]:
  """Searches zips and tars; see `find`."""
  if not path.is_dir():
    return _in_archive(path, pattern, wanted, lone=True)
  archives = [
    (file, same_name(file.name[: -len(suffix)]) in wanted)
    for place in _places(path, wanted)
    for file in sorted(place.iterdir())
    for suffix in _SUFFIXES
    if file.name.lower().endswith(suffix) and _is_archive(file)
  ]
  for archive, named in sorted(archives, key=lambda pair: not pair[1]):
    if found := _in_archive(archive, pattern, wanted, lone=named):
      return found
  return []


def _in_archive(
  path: pathlib.Path, pattern: str, wanted: set[str], lone: bool
) -> list[Source]:
  """Returns the members in the topmost folder with a wanted name.

  With `lone`, a folder of any name counts if it is the only match.
  """
  state = path.stat()
  roots: dict[pathlib.PurePosixPath, list[Source]] = {}
  for member in _names(path, state.st_mtime_ns, state.st_size):
    file = pathlib.PurePosixPath(member)
    if file.match(pattern) and not file.name.startswith('.'):
      root = file.parents[pattern.count('/')]
      roots.setdefault(root, []).append(Source(path, member))
  inside = [root for root in roots if same_name(root.name) in wanted]
  if not inside and not (lone and len(roots) == 1):
    return []
  root = min(inside or roots, key=lambda root: (len(root.parts), str(root)))
  return roots[root]


def _places(
  path: pathlib.Path, wanted: set[str], depth: int = 1
) -> Iterator[pathlib.Path]:
  """Yields `path`, its subfolders with a wanted name, then one level deeper."""
  if not path.is_dir():
    return
  yield path
  others = []
  for child in sorted(child for child in path.iterdir() if child.is_dir()):
    if same_name(child.name) in wanted:
      yield from _places(child, wanted, depth=0)
    else:
      others.append(child)
  if depth:
    for other in others:
      yield from itertools.islice(_places(other, wanted, depth=0), 1, None)


def _is_archive(path: pathlib.Path) -> bool:
  """Returns True for a zip or tar, even a damaged one; reading it fails."""
  try:
    return path.is_file() and (
      zipfile.is_zipfile(path) or tarfile.is_tarfile(path)
    )
  except _DAMAGE:
    return True


@functools.lru_cache(64)
def _names(path: pathlib.Path, mtime_ns: int, size: int) -> tuple[str, ...]:
  """Lists the files of an archive; cached until the archive changes."""
  del mtime_ns, size
  with _members(path) as members:
    return tuple(n for n, _ in members if not n.startswith('__MACOSX/'))


@contextlib.contextmanager
def _members(
  path: pathlib.Path,
) -> Iterator[Iterator[tuple[str, Callable[[], IO[bytes]]]]]:
  """Yields an iterator over the (name, opener) pairs of an archive's files.

  A tar has no index and, if compressed, no random access: a member must be
  opened while the iterator points at it.

  Raises:
    UserError: the archive is damaged.
  """
  try:
    if zipfile.is_zipfile(path):
      with zipfile.ZipFile(path) as archive:
        yield (
          (info.filename, functools.partial(archive.open, info))
          for info in archive.infolist()
          if not info.filename.endswith('/')
        )
    else:
      with tarfile.open(path) as tar:
        yield (
          (info.name, functools.partial(_extract, tar, info))
          for info in tar
          if info.isfile()
        )
  except _DAMAGE as error:
    raise UserError(
      f'{path}: damaged archive ({error}); download it again'
    ) from None


def _extract(tar: tarfile.TarFile, info: tarfile.TarInfo) -> IO[bytes]:
  stream = tar.extractfile(info)
  assert stream is not None  # None only for members that are not files
  return stream
