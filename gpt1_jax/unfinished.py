"""A folder under another name until it is finished, so none is ever half."""

import contextlib
import errno
import fcntl
import os
import pathlib
import shutil
from collections.abc import Iterator

from gpt1_jax.errors import UserError


@contextlib.contextmanager
def directory(output: pathlib.Path) -> Iterator[pathlib.Path]:
  """An empty directory next to the output; one left by a killed run goes.

  It is removed on any error, and may be renamed when all is well.
  """
  path = output.with_name(output.name + '.incomplete')
  if path.exists():
    held = _hold(path)
    shutil.rmtree(path)
    os.close(held)
  path.mkdir(parents=True)
  held = _hold(path)
  try:
    yield path
  except BaseException as error:
    shutil.rmtree(path, ignore_errors=True)
    full = (errno.ENOSPC, errno.EDQUOT, errno.EFBIG)
    if isinstance(error, OSError) and error.errno in full:
      raise UserError(
        f'{output}: {error.strerror}; nothing was kept, make room and run it '
        'again'
      ) from None
    raise
  finally:
    os.close(held)


def _hold(path: pathlib.Path) -> int:
  """Locks a directory until the returned descriptor is closed."""
  descriptor = os.open(path, os.O_RDONLY)
  try:
    fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
  except BlockingIOError:
    os.close(descriptor)
    raise UserError(
      f'{path}: another prepare is at work here; wait for it, or give another '
      '--output'
    ) from None
  return descriptor
