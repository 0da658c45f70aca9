"""Lets one process at a time run in a directory; host 0 locks for all hosts.

On a file system, the lock ends with its process (flock). A bucket has no such
lock: there the holder rewrites an object every few seconds, and a process that
finds the object waits to see if it changes. If two processes start within a
second, both may pass in a bucket; the first to write then notices at its next
write, and ends.
"""

import contextlib
import dataclasses
import errno
import fcntl
import json
import os
import pathlib
import platform
import sys
import threading
import time
import uuid
from collections.abc import Iterator
from typing import IO, Any

import jax

from gpt1_jax import interrupts, storage
from gpt1_jax.errors import RunError, UserError
from gpt1_jax.train import hosts

LOCK = 'lock'
_PERIOD = 15.0  # seconds between two writes of the object
_NO_FLOCK = (errno.ENOLCK, errno.ENOSYS, errno.EOPNOTSUPP)
_held: set[str] = set()  # directories that this process has locked
_files: dict[str, IO[str]] = {}  # the locked file of each, if flock works


@contextlib.contextmanager
def held(workdir: str) -> Iterator[None]:
  """Locks a run directory within the context; creates it if missing.

  Removes the directory at the end if no run began in it.

  Raises:
    UserError: another process runs there, and the message names it; the hosts
      do not share the directory; or Orbax cannot save in a folder of this name.
  """
  place = storage.writable(workdir)
  storage.check_no_pattern(place)
  if str(place) in _held:
    yield
    return
  _held.add(str(place))
  try:
    with contextlib.ExitStack() as stack:
      if jax.process_index() == 0:
        stack.enter_context(_created(place))
        stack.enter_context(_locked(workdir, place))
      hosts.meet('locked')
      hosts.agree(
        {f'folder {workdir} (it must be shared)': _token(place / LOCK)}
      )
      yield
  finally:
    _held.remove(str(place))


def check(workdir: str) -> None:
  """Checks that a directory that this process has locked is still its own.

  Raises:
    RunError: it was moved or removed, or another process has locked it.
  """
  place = storage.resolved(workdir)
  if not isinstance(place, pathlib.Path):
    return
  file = _files.get(str(place))  # of host 0 alone
  if not (place / 'config.json' if file else place).exists():
    raise RunError(
      f'{workdir}: was moved or removed while the run was in it; the run stops '
      'here. If it was moved, the same command with the new --workdir resumes '
      'from the last checkpoint'
    )
  locked = place / LOCK
  if file and locked.exists() and not _is_at(file, locked):
    with locked.open(encoding='utf-8') as other:
      raise _refusal(workdir, _Holder.parse(other.read()))


def _is_at(file: IO[str], path: pathlib.Path) -> bool:
  """Returns True if an open file has this path."""
  return path.exists() and path.stat().st_ino == os.fstat(file.fileno()).st_ino


@contextlib.contextmanager
def _created(place: storage.Path) -> Iterator[None]:
  """Creates a directory; at the end removes what it created and is empty."""
  if not isinstance(place, pathlib.Path):  # a bucket has no directories
    yield
    return
  missing = [p for p in (place, *place.parents) if not p.exists()]
  place.mkdir(parents=True, exist_ok=True)
  try:
    yield
  finally:
    if missing:
      with contextlib.suppress(OSError):  # not empty
        if (place / 'checkpoints').exists():
          (place / 'checkpoints').rmdir()
        for folder in missing:
          folder.rmdir()


@contextlib.contextmanager
def _locked(workdir: str, place: storage.Path) -> Iterator[None]:
  if isinstance(place, pathlib.Path):
    try:
      file = _flock(workdir, place / LOCK)
    except OSError as error:
      if error.errno not in _NO_FLOCK:
        raise
    else:
      _files[str(place)] = file
      try:
        yield
      finally:
        if _is_at(file, place / LOCK):
          (place / LOCK).unlink()
        del _files[str(place)]
        file.close()
      return
  with _Stamp(workdir, place / LOCK, _PERIOD):
    yield


def _flock(workdir: str, path: pathlib.Path) -> IO[str]:
  """Returns the open, locked file."""
  while True:
    file = path.open('a+', encoding='utf-8')
    try:
      fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
      if _is_at(file, path):
        break  # else another process has just removed it
    except BlockingIOError:
      file.seek(0)
      holder = _Holder.parse(file.read())
      file.close()
      raise _refusal(workdir, holder) from None
    except OSError:
      file.close()
      raise
    file.close()
  file.truncate(0)
  file.write(_Holder.this_process().text())
  file.flush()
  os.fsync(file.fileno())  # for other hosts
  return file


def _token(path: storage.Path) -> str | None:
  """Returns the token of a lock's holder."""
  text = path.read_text(encoding='utf-8') if path.exists() else ''
  holder = _Holder.parse(text)
  return holder.token if holder else None


@dataclasses.dataclass(frozen=True)
class _Holder:
  """The process that holds a lock; `beats` counts its writes."""

  host: str
  process: int
  since: str
  token: str
  beats: int = 0

  @classmethod
  def this_process(cls) -> '_Holder':
    since = time.strftime('%Y-%m-%d %H:%M:%S UTC', time.gmtime())
    return cls(platform.node(), os.getpid(), since, uuid.uuid4().hex)

  @classmethod
  def parse(cls, text: str) -> '_Holder | None':
    with contextlib.suppress(ValueError, TypeError):
      return cls(**json.loads(text))
    return None

  def text(self) -> str:
    return json.dumps(dataclasses.asdict(self)) + '\n'

  def is_dead(self) -> bool:
    """Returns True if the holder ran on this host and is gone."""
    if self.host != platform.node():
      return False
    if self.process == os.getpid():
      return True  # a restarted container counts processes from 1 again
    try:
      os.kill(self.process, 0)
    except ProcessLookupError:
      return True
    except PermissionError:
      pass
    return False


def _refusal(workdir: str, holder: _Holder | None) -> UserError:
  who = 'another process runs here'
  if holder:
    who = (
      f'process {holder.process} on {holder.host} runs here since '
      f'{holder.since}'
    )
  return UserError(f'{workdir}: {who}; stop it first, or use another --workdir')


class _Stamp:
  """A lock in a bucket: an object that its holder keeps rewriting."""

  def __init__(self, workdir: str, path: storage.Path, period: float):
    self._workdir, self._path, self._period = workdir, path, period
    self._mine = _Holder.this_process()
    self._done = threading.Event()
    self._thread = threading.Thread(target=self._beat, daemon=True)

  def __enter__(self) -> None:
    found = self._read()
    if found and not found.is_dead():
      if found.host == platform.node():
        raise _refusal(self._workdir, found)
      self._wait_for(found)
    self._write()
    self._thread.start()

  def __exit__(self, *_: Any) -> None:
    self._done.set()
    self._thread.join()
    if self._is_mine():
      self._path.unlink()

  def _wait_for(self, found: _Holder) -> None:
    """Waits until the holder has missed three writes.

    Raises:
      UserError: the holder has written again.
    """
    print(
      f'{self._workdir}: process {found.process} on {found.host} ran here; '
      f'waiting {3 * self._period:.0f} s to see if it still does',
      file=sys.stderr,
      flush=True,
    )
    deadline = time.monotonic() + 3 * self._period
    while time.monotonic() < deadline:
      time.sleep(self._period / 5)
      now = self._read()
      if now is None:
        return
      if now != found:
        raise _refusal(self._workdir, now)

  def _beat(self) -> None:
    """Rewrites the object in a thread; ends the process if the lock is lost."""
    while not self._done.wait(self._period):
      with contextlib.suppress(OSError):  # the network may come back
        if not self._is_mine():
          print(
            f'error: {_refusal(self._workdir, self._read())}',
            file=sys.stderr,
            flush=True,
          )
          os._exit(interrupts.EXIT_CODE)
        self._mine = dataclasses.replace(self._mine, beats=self._mine.beats + 1)
        self._write()

  def _is_mine(self) -> bool:
    found = self._read()
    return found is None or found.token == self._mine.token

  def _read(self) -> _Holder | None:
    if not self._path.exists():
      return None
    return _Holder.parse(self._path.read_text(encoding='utf-8'))

  def _write(self) -> None:
    storage.write_text(self._path, self._mine.text())
