"""Reads and writes paths on disk and in buckets (gs://).

Only this module uses etils. A local path is a `pathlib.Path` and a bucket path
is an `epath.Path`. Both read, list, join and create folders the same way (mkdir
does nothing in a bucket). This module handles the differences: a bucket
replaces whole objects and cannot rename or append.
"""

import contextlib
import importlib.util
import json
import math
import os
import pathlib
import uuid
from collections.abc import Iterator
from typing import Any

from etils import epath

from gpt1_jax.errors import UserError

Path = pathlib.Path | epath.Path
REMOTE = 'gs://'
_MAX_DEPTH = 100  # levels of JSON; Python's stack holds a few hundred
# Libraries whose errors `bucket_error` formats as one line.
_BUCKET_LIBRARIES = ('gcsfs', 'google', 'aiohttp', 'requests')

# Without this, epath uses TensorFlow's client if TensorFlow is installed.
os.environ.setdefault('EPATH_USE_TF', 'false')


def is_remote(path: str | os.PathLike[str] | None) -> bool:
  """Returns True for a path in a bucket."""
  return os.fspath(path or '').startswith(REMOTE)


def expanded(name: str) -> str:
  """Replaces a leading `~` by the home folder; a shell leaves it in --x=~/y.

  Raises:
    UserError: the home folder is unknown.
  """
  found = os.path.expanduser(name)
  if found.startswith('~'):
    raise UserError(
      f'{name}: the home folder is unknown; give the whole path, or ./{name}'
    )
  return found


def path(name: str | os.PathLike[str]) -> Path:
  """Returns the path object for a name; replaces a leading `~`.

  Raises:
    UserError: the scheme is neither local nor gs://, gcsfs is missing, or the
      home folder is unknown.
  """
  name = expanded(os.fspath(name))
  if is_remote(name):
    filesystem()
    return epath.Path(name)
  if '://' in name:
    raise UserError(f'{name}: give a local path, or one of a bucket ({REMOTE})')
  return pathlib.Path(name)


def resolved(name: str | os.PathLike[str]) -> Path:
  """Returns the canonical path: absolute, with symbolic links resolved.

  Raises:
    UserError: see `path`; or the links form a loop.
  """
  place = path(name)
  if not isinstance(place, pathlib.Path):
    return place
  with contextlib.suppress(RuntimeError):  # from 3.13 on, a loop is returned
    found = place.resolve()
    if not any(x.is_symlink() for x in (found, *found.parents)):
      return found
  raise UserError(f'{name}: its symbolic links form a loop')


def writable(name: str | os.PathLike[str]) -> Path:
  """Returns the canonical path of a folder to write.

  Raises:
    UserError: its name is not UTF-8, which JSON and Orbax require.
  """
  place = resolved(name)
  check_utf8(os.fspath(place))
  return place


def check_no_pattern(place: Path) -> None:
  r"""Raises UserError if a path has one of `*?[\`.

  Orbax looks for the files of a save with a glob of the whole path. In such a
  folder it would find none, and commit a checkpoint that cannot be read.
  """
  name = os.fspath(place)
  if found := set(name) & set('*?[\\'):
    raise UserError(
      f'{name}: has {" ".join(sorted(found))} in its name, which Orbax takes '
      'for a pattern; give another folder'
    )


def check_utf8(name: str) -> None:
  """Raises UserError if a flag's value or a path is not UTF-8."""
  try:
    name.encode('utf-8')
  except UnicodeEncodeError:
    shown = os.fsencode(name).decode('utf-8', 'backslashreplace')
    raise UserError(f'{shown}: not UTF-8; rename it, or give another') from None


def walk(top: Path) -> Iterator[tuple[Path, list[str], list[str]]]:
  """Walks a directory tree top-down, like `os.walk`.

  Yields:
    A folder, the names of its subfolders and the names of its files. Subfolders
    that the caller removes from the list are skipped.
  """
  if isinstance(top, pathlib.Path):
    for folder, below, files in os.walk(top):
      yield pathlib.Path(folder), below, files
    return
  # epath's own walk yields paths without gs://.
  for folder, below, files in filesystem().walk(os.fspath(top)):
    yield epath.Path(REMOTE + folder), below, files


def remove(folder: Path) -> None:
  """Removes a folder and everything in it, if it exists."""
  epath.Path(folder).rmtree(missing_ok=True)


def write_bytes(name: str | os.PathLike[str], content: bytes) -> None:
  """Writes a file atomically: readers see either the old or the new content.

  Creates missing parent folders.
  """
  target = path(name)
  if not isinstance(target, pathlib.Path) or (
    target.exists() and not target.is_file()  # a device, a pipe, a folder
  ):
    with naming(target):
      target.write_bytes(content)
    return
  target = resolved(target)  # a link stays
  assert isinstance(target, pathlib.Path)
  target.parent.mkdir(parents=True, exist_ok=True)
  # Several hosts may write the same file on a shared disk.
  temporary = target.with_name(f'{target.name}.{uuid.uuid4().hex[:8]}.tmp')
  try:
    with naming(target):
      temporary.write_bytes(content)
      os.replace(temporary, target)
  except BaseException:
    temporary.unlink(missing_ok=True)
    raise


@contextlib.contextmanager
def naming(file: os.PathLike[str]) -> Iterator[None]:
  """Adds the file's name to an OSError without one, such as a write's."""
  try:
    yield
  except OSError as error:
    error.filename = error.filename or os.fspath(file)
    raise


def write_text(name: str | os.PathLike[str], text: str) -> None:
  """Writes a UTF-8 file atomically."""
  write_bytes(name, text.encode('utf-8'))


def to_json(
  value: Any, indent: int | None = None, in_ascii: bool = True
) -> str:
  """Returns JSON text; NaN and infinity, which JSON lacks, become null.

  Without `in_ascii`, only unpaired surrogates, which UTF-8 lacks, are escaped.
  """
  text = json.dumps(
    _finite(value), indent=indent, allow_nan=False, ensure_ascii=in_ascii
  )
  return text.encode('utf-8', 'backslashreplace').decode()


def _finite(value: Any) -> Any:
  if isinstance(value, dict):
    return {key: _finite(each) for key, each in value.items()}
  if isinstance(value, list | tuple):
    return [_finite(each) for each in value]
  is_number = isinstance(value, float)
  return None if is_number and not math.isfinite(value) else value


def write_json(name: str | os.PathLike[str], value: Any) -> None:
  """Writes a JSON file atomically; see `to_json`."""
  write_text(name, to_json(value, indent=1) + '\n')


def read_bytes(name: str | os.PathLike[str]) -> bytes:
  """Reads a file; raises UserError for a pipe or a device, which may not end.

  Raises:
    FileNotFoundError: the file does not exist.
  """
  file = path(name)
  if file.exists() and not file.is_file():
    raise UserError(f'{name}: not a file, but a folder, a pipe or a device')
  return file.read_bytes()


def read_json(name: str | os.PathLike[str]) -> Any:
  """Reads a JSON file.

  Raises:
    UserError: the file is not JSON, or nested too deeply.
    FileNotFoundError: the file does not exist.
  """
  try:
    found = json.loads(read_bytes(name).decode())
    check_depth(found)
  except (ValueError, RecursionError) as error:
    raise UserError(f'{name}: damaged, not valid JSON ({error})') from None
  return found


def check_depth(value: Any) -> None:
  """Raises ValueError for JSON that is too deep to be walked recursively."""
  level = [value] if isinstance(value, dict | list) else []
  for _ in range(_MAX_DEPTH + 1):
    if not level:
      return
    within = [x.values() if isinstance(x, dict) else x for x in level]
    level = [y for x in within for y in x if isinstance(y, dict | list)]
  raise ValueError(f'nested in more than {_MAX_DEPTH} levels')


def is_free(output: Path) -> bool:
  """Returns True if a path is missing or an empty directory."""
  return not any(output.iterdir()) if output.is_dir() else not output.exists()


def bucket_error(error: BaseException) -> str | None:
  """Formats an error of a bucket library as one line; None for other errors."""
  library = type(error).__module__.partition('.')[0]
  if library not in _BUCKET_LIBRARIES:
    return None
  line = ' '.join(str(error).split()) or type(error).__name__
  return f'cannot access the bucket ({line})'


def filesystem() -> Any:
  """Returns fsspec's file system for buckets.

  Raises:
    UserError: gcsfs is not installed.
  """
  if importlib.util.find_spec('gcsfs') is None:
    raise UserError(f"{REMOTE} paths need gcsfs: pip install 'gpt1_jax[gcs]'")
  from gpt1_jax import bucket

  return bucket.filesystem()
