"""Finds a task's files, however its archive was unpacked, or still packed.

A file is looked for in the folder given, in its sub-folders that carry the
task's name, and in the zips and tars that lie there. Nothing is unpacked.
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
from collections.abc import Iterable, Iterator, Sequence
from typing import IO

from gpt1_jax import errors

_ENDINGS = ('.zip', '.tar.gz', '.tgz', '.tar')
_DAMAGE = (
  zipfile.BadZipFile,
  tarfile.TarError,
  zlib.error,
  EOFError,
  OSError,  # gzip.BadGzipFile among them
)


@dataclasses.dataclass(frozen=True)
class Source:
  """One file: plain where `member` is empty, else a member of an archive."""

  path: pathlib.Path
  member: str = ''

  def __str__(self) -> str:
    return f'{self.path}/{self.member}' if self.member else str(self.path)

  @property
  def name(self) -> str:
    """File name without folders."""
    return pathlib.PurePosixPath(self.member or self.path).name

  @property
  def folder(self) -> str:
    """Name of the folder that holds the file, as `same_name` compares it."""
    return same_name(pathlib.Path(str(self)).parent.name)

  @contextlib.contextmanager
  def open(self) -> Iterator[IO[bytes]]:
    """Opens for reading bytes; a damaged archive is a `UserError`."""
    if not self.member:
      with self.path.open('rb') as stream:
        yield stream
      return
    with _damage_named(str(self)), _members(self.path) as found:
      for name, opened in found:
        if name == self.member:
          with opened() as stream:
            yield stream
          return


def same_name(name: str) -> str:
  """What two spellings of a folder share: `SST-2`, `sst2`, `glue-sst2`."""
  return re.sub('[^a-z0-9]', '', name.lower()).removeprefix('glue')


def natural(text: str) -> list[tuple[int, str]]:
  """A key that sorts `2.txt` before `10.txt`."""
  parts = re.split('([0-9]+)', text)
  return [(int(part) if part.isdigit() else -1, part) for part in parts]


def find(
  path: pathlib.Path, names: Sequence[str], folders: Sequence[str]
) -> Source | None:
  """The first file of the first of `names` that is anywhere; see `find_all`."""
  for archives in (False, True):
    for name in names:
      found = _find_all(path, name, folders, archives)
      if found:
        return found[0]
  return None


def find_all(
  path: pathlib.Path, pattern: str, folders: Sequence[str]
) -> list[Source]:
  """The files of a pattern in the first place that has any, in natural order.

  Args:
    path: a folder, a zip or a tar.
    pattern: a file name, perhaps with `*`, perhaps behind folders:
      `train/middle/*.txt`. Hidden files do not match.
    folders: names of the folder (or archive) the task's archive unpacks to;
      read as `same_name` does. Looked at: `path/PATTERN`,
      `path/FOLDER/PATTERN`, `path/*/FOLDER/PATTERN`; then, in `path` and in
      those folders, archives called FOLDER, and any other archives that hold
      a FOLDER.

  Raises:
    UserError: `path` does not exist, or is neither a folder nor an archive.
  """
  return _find_all(path, pattern, folders, False) or _find_all(
    path, pattern, folders, True
  )


def looked_for(
  path: pathlib.Path, names: Sequence[str], folders: Sequence[str]
) -> str:
  """The places `find` looks at, in words for an error."""
  files = ' or '.join(names)
  if not path.is_dir():
    return f'looked in {path} for {files}'
  inside = ', '.join(f'{folder}/, */{folder}/' for folder in folders)
  return (
    f'looked in {path} for {files}, there, in {inside}, and in zips and tars '
    'so called or with such a folder'
  )


def contents(sources: Sequence[Source]) -> Iterator[tuple[Source, bytes]]:
  """The bytes of many files, in the order given; each archive is read once.

  Raises:
    UserError: a damaged archive.
  """
  for path, group in itertools.groupby(sources, lambda source: source.path):
    group = list(group)
    if not group[0].member:
      yield from ((source, source.path.read_bytes()) for source in group)
      continue
    wanted = {source.member for source in group}
    data = {}
    with _damage_named(str(path)), _members(path) as found:
      for name, opened in found:
        if name in wanted:
          with opened() as stream:
            data[name] = stream.read()
    yield from ((source, data[source.member]) for source in group)


def _find_all(
  path: pathlib.Path, pattern: str, folders: Sequence[str], archives: bool
) -> list[Source]:
  """`find_all` in folders only, or in archives only."""
  wanted = {same_name(folder) for folder in folders}
  if not path.exists():
    raise errors.UserError(
      f'{path}: no such file or folder; set config.data.path'
    )
  if not path.is_dir():
    if not _is_archive(path):
      raise errors.UserError(
        f'{path}: neither a folder nor a zip or tar; set config.data.path'
      )
    return _find_in_archive(path, pattern, wanted, True) if archives else []
  places = list(_places(path, wanted))
  if not archives:
    for place in places:
      files = [file for file in place.glob(pattern) if file.is_file()]
      files = [file for file in files if not file.name.startswith('.')]
      if files:
        return _sorted(map(Source, files))
    return []
  packed = [
    file
    for place in places
    for file in sorted(place.iterdir())
    if file.name.lower().endswith(_ENDINGS) and _is_archive(file)
  ]
  for named in (True, False):
    for file in packed:
      if (_stem(file) in wanted) == named:
        files = _find_in_archive(file, pattern, wanted, named)
        if files:
          return files
  return []


def _places(
  path: pathlib.Path, wanted: set[str], depth: int = 1
) -> Iterator[pathlib.Path]:
  """`path`, then its folders of a wanted name and theirs, then one level on."""
  yield path
  children = sorted(child for child in path.iterdir() if child.is_dir())
  others = []
  for child in children:
    if same_name(child.name) in wanted:
      yield from _places(child, wanted, depth=0)
    else:
      others.append(child)
  if depth:
    for other in others:
      yield from itertools.islice(_places(other, wanted, depth=0), 1, None)


def _find_in_archive(
  path: pathlib.Path, pattern: str, wanted: set[str], alone: bool
) -> list[Source]:
  """Members in a folder of a wanted name, or the only ones where `alone`."""
  state = path.stat()
  depth = pattern.count('/')
  roots: dict[pathlib.PurePosixPath, list[Source]] = {}
  for member in _names(path, state.st_mtime_ns, state.st_size):
    file = pathlib.PurePosixPath(member)
    if file.match(pattern) and not file.name.startswith('.'):
      root = file.parents[depth]
      roots.setdefault(root, []).append(Source(path, member))
  inside = [root for root in roots if same_name(root.name) in wanted]
  if not inside and not (alone and len(roots) == 1):
    return []
  root = min(inside or roots, key=lambda root: (len(root.parts), str(root)))
  return _sorted(roots[root])


def _sorted(sources: Iterable[Source]) -> list[Source]:
  return sorted(sources, key=lambda source: natural(str(source)))


def _stem(path: pathlib.Path) -> str:
  name = path.name
  for ending in _ENDINGS:
    if name.lower().endswith(ending):
      name = name[: -len(ending)]
  return same_name(name)


def _is_archive(path: pathlib.Path) -> bool:
  return path.is_file() and (
    zipfile.is_zipfile(path) or tarfile.is_tarfile(path)
  )


@functools.lru_cache(64)
def _names(path: pathlib.Path, mtime_ns: int, size: int) -> tuple[str, ...]:
  """Names of all files in an archive; a tar is read through for them."""
  del mtime_ns, size  # of the file as it was listed
  with _damage_named(str(path)), _members(path) as found:
    return tuple(name for name, _ in found if not name.startswith('__MACOSX/'))


@contextlib.contextmanager
def _members(path: pathlib.Path):
  """Yields an iterator of (name, opener) over the files of an archive.

  A tar has no index: its members are opened while it is read through, once.
  """
  if zipfile.is_zipfile(path):
    with zipfile.ZipFile(path) as archive:
      yield (
        (name, functools.partial(archive.open, name))
        for name in archive.namelist()
        if not name.endswith('/')
      )
    return
  with tarfile.open(path) as archive:
    yield (
      (info.name, functools.partial(archive.extractfile, info))
      for info in archive
      if info.isfile()
    )


@contextlib.contextmanager
def _damage_named(name: str) -> Iterator[None]:
  try:
    yield
  except _DAMAGE as error:
    raise errors.UserError(
      f'{name}: damaged archive ({error}); fetch it again'
    ) from None
