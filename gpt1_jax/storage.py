"""Folders here and in buckets: a path that begins with gs:// is in one.

The one place that knows etils and fsspec. A local path stays a `pathlib.Path`;
one in a bucket is an `epath.Path`, which reads and lists alike. What differs is
writing: an object appears whole when it is written, folders need not be made,
and nothing is renamed or appended to.
"""

import contextlib
import importlib.util
import os
import pathlib
import shutil
import tempfile
from collections.abc import Iterator
from typing import Any

from gpt1_jax.errors import UserError

REMOTE = 'gs://'
# The libraries whose errors `said` puts into a line.
_SPEAKERS = ('gcsfs', 'google', 'aiohttp', 'requests')

Path = Any  # pathlib.Path, or epath.Path in a bucket


def is_remote(path: str | os.PathLike | None) -> bool:
  """Whether a path is in a bucket."""
  return os.fspath(path or '').startswith(REMOTE)


def of(path: str | os.PathLike) -> Path:
  """The path, to read, list and join.

  Raises:
    UserError: it has a scheme that is not known here, or a library is missing.
  """
  name = os.fspath(path)
  if not is_remote(name):
    if '://' in name:
      scheme = name.partition('://')[0]
      raise UserError(
        f'{name}: a path is local or begins with {REMOTE}; {scheme}:// is not '
        'known here'
      )
    return pathlib.Path(name)
  _filesystem()
  from etils import epath

  return epath.Path(name)


def resolved(path: str | os.PathLike) -> Path:
  """The path by its full name: the same for all ways to spell it."""
  path = of(path)
  return path if is_remote(path) else path.resolve()


def absolute(path: str | os.PathLike) -> Path:
  """The path from the root, links in it left as they are."""
  path = of(path)
  return path if is_remote(path) else path.absolute()


def make_folder(path: str | os.PathLike) -> None:
  """Makes a folder and those above it; in a bucket there is nothing to make."""
  if not is_remote(path):
    pathlib.Path(path).mkdir(parents=True, exist_ok=True)


def write_bytes(path: str | os.PathLike, content: bytes) -> None:
  """Writes a file at once: it is never there in part."""
  path = of(path)
  if is_remote(path):
    path.write_bytes(content)
    return
  temporary = path.with_name(path.name + '.tmp')
  temporary.write_bytes(content)
  os.replace(temporary, path)


def write_text(path: str | os.PathLike, text: str) -> None:
  """`write_bytes` of text, in UTF-8."""
  write_bytes(path, text.encode('utf-8'))


def walk(top: Path) -> Iterator[tuple[Path, list[str], list[str]]]:
  """As `os.walk`: a folder, the folders in it, its files, from the top.

  What is taken out of the list of folders is not entered.
  """
  if not is_remote(top):
    for name, below, files in os.walk(top):
      yield pathlib.Path(name), below, files
    return
  found = [
    (entry['name'].rstrip('/').rpartition('/')[2], entry['type'])
    for entry in _filesystem().ls(os.fspath(top), detail=True)
    # An empty object marks a folder that was made in the console.
    if entry['name'].strip('/') != os.fspath(top)[len(REMOTE) :].strip('/')
  ]
  below = sorted(name for name, kind in found if kind == 'directory')
  yield top, below, sorted(name for name, kind in found if kind == 'file')
  for name in below:
    yield from walk(top / name)


def objects(path: Path) -> dict[str, dict[str, Any]]:
  """All files at or below a path in a bucket, by their name from there.

  Returns:
    name ('' is the path itself) -> size and md5 (base64, None where the bucket
    has none), sorted by name.
  """
  top = os.fspath(path)[len(REMOTE) :].rstrip('/')
  found = _filesystem().find(top, detail=True)
  return {
    name[len(top) :].strip('/'): {
      'size': facts['size'],
      'md5': facts.get('md5Hash'),
    }
    for name, facts in sorted(found.items())
    if not name.endswith('/')
  }


def remove(path: Path) -> None:
  """Removes a folder with all that is in it, if it is there."""
  if not is_remote(path):
    shutil.rmtree(path, ignore_errors=True)
    return
  with contextlib.suppress(FileNotFoundError):
    path.rmtree()


class Outbox:
  """Files that grow, for a folder in which nothing can be appended to.

  Attributes:
    folder: where they are written: the folder itself, or one of this machine
      for the time being if that is in a bucket.
    remote: which of the two it is.
  """

  def __init__(self, target: str | os.PathLike):
    self._target = of(target)
    self.remote = is_remote(target)
    self._sent: dict[pathlib.Path, int] = {}
    if self.remote:
      self._here = tempfile.TemporaryDirectory(prefix='gpt1_jax-')
      self.folder = pathlib.Path(self._here.name)
    else:
      self.folder = self._target

  def send(self) -> None:
    """Writes anew, whole, each object whose file has grown or shrunk."""
    if not self.remote:
      return
    for file in sorted(self.folder.rglob('*')):
      if not file.is_file():
        continue
      content = file.read_bytes()
      if self._sent.get(file) != len(content):
        write_bytes(self._target / str(file.relative_to(self.folder)), content)
        self._sent[file] = len(content)

  def close(self) -> None:
    """Sends what is left."""
    if self.remote:
      self.send()
      self._here.cleanup()


def said(error: BaseException) -> str | None:
  """What a library says of a bucket, in a line; None: it is none of theirs."""
  speaker = type(error).__module__.partition('.')[0]
  if speaker not in _SPEAKERS:
    return None
  line = ' '.join(str(error).split()) or type(error).__name__
  return f'the bucket cannot be reached ({line})'


def _filesystem() -> Any:
  """The file system of buckets, which must not remember what it listed.

  Raises:
    UserError: gcsfs is not installed.
  """
  if importlib.util.find_spec('gcsfs') is None:
    raise UserError(f"{REMOTE} paths need gcsfs: pip install 'gpt1_jax[gcs]'")
  # One way to a bucket, whether or not TensorFlow happens to be there.
  os.environ.setdefault('EPATH_USE_TF', 'false')
  import fsspec

  # Another host may have written since.
  settings = fsspec.config.conf.setdefault('gcs', {})
  settings.setdefault('use_listings_cache', False)
  # As etils asks for it, to share one with it (and Orbax).
  return fsspec.filesystem('gcs', finalize_on_close=True)
