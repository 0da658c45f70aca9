"""Builds a local directory that appears once it is complete."""

import contextlib
import fcntl
import os
import pathlib
import shutil
from collections.abc import Iterator

from gpt1_jax import storage
from gpt1_jax.errors import DISK_FULL, RunError, UserError


@contextlib.contextmanager
def atomic_dir(output: pathlib.Path) -> Iterator[pathlib.Path]:
  """Builds a directory under a temporary name; renames it when complete.

  Args:
    output: the final name; must be missing or an empty directory.

  Yields:
    An empty directory, OUTPUT.incomplete/OUTPUT, locked against other
    processes. It is removed if the block raises. What a killed process left
    there is deleted first.

  Raises:
    UserError: another process is building `output`, or has just built it; or
      OUTPUT.incomplete holds something else.
    RunError: the disk is full.
  """
  place = output.with_name(output.name + '.incomplete')
  temporary = place / output.name
  place.mkdir(parents=True, exist_ok=True)
  lock = _lock(place, output)
  try:
    if foreign := [x.name for x in place.iterdir() if x.name != output.name]:
      raise UserError(
        f'{place}: holds {min(foreign)}, which no unfinished command left '
        'there; move the folder away, or use another --output'
      )
    with _removed_on_failure(temporary, output):
      if not storage.is_free(output):
        raise _taken(output)
      if temporary.exists():
        shutil.rmtree(temporary)
      temporary.mkdir()
      yield temporary
      os.replace(temporary, output)
  finally:
    with contextlib.suppress(OSError):  # not empty, or a link
      place.rmdir()
    os.close(lock)


@contextlib.contextmanager
def _removed_on_failure(
  temporary: pathlib.Path, output: pathlib.Path
) -> Iterator[None]:
  """Removes the folder if the block raises; names `output` on a full disk."""
  try:
    yield
  except BaseException as error:
    shutil.rmtree(temporary, ignore_errors=True)
    if isinstance(error, OSError) and error.errno in DISK_FULL:
      raise RunError(
        f'{output}: {error.strerror}; nothing was written: free some disk '
        'space and run the command again'
      ) from None
    raise


def _lock(folder: pathlib.Path, output: pathlib.Path) -> int:
  """Locks a folder until the returned file descriptor is closed."""
  try:
    descriptor = os.open(folder, os.O_RDONLY)
  except FileNotFoundError:  # another process has just renamed it
    raise _taken(output) from None
  try:
    fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
    if os.path.samestat(os.fstat(descriptor), os.stat(folder)):
      return descriptor
  except (BlockingIOError, FileNotFoundError):
    pass
  os.close(descriptor)
  raise _taken(output)


def _taken(output: pathlib.Path) -> UserError:
  return UserError(
    f'{output}: another process is writing it, or has just written it; wait '
    'for it to finish, or use another --output'
  )
