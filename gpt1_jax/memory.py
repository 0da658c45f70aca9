"""Explains in one line that memory ran out.

Libraries report it in many ways, from MemoryError to a thread that fails to
start. XLA and LLVM may also abort the process, which Python cannot explain.
"""

import errno
import os
import re
import sys
from collections.abc import Iterator
from types import TracebackType

from gpt1_jax.errors import (
  MANY_FILES,
  SAYS_DISK_FULL,
  SAYS_MANY_FILES,
  first_line,
)

_RAN_OUT = re.compile(
  'RESOURCE_EXHAUSTED|[Oo]ut of memory|OUT_OF_MEMORY|bad_alloc'
)
_STATUS = 'RESOURCE_EXHAUSTED'  # begins TensorStore's message
# Text of a SystemError: Python had no memory for the exception itself.
_NO_EXCEPTION = 'error return without exception set'
_NO_THREAD = re.compile("can't start new thread|[Tt]hread creation failed")
_NOT_MAPPED = re.compile('failed to map segment|cannot (allocate|map)')
_REMEDY = (
  'close other programs, raise the limit (ulimit -v, the memory of the job or '
  'container), or use a smaller batch, more microbatches, fewer samples or '
  'fewer workers'
)


def explain_shortage(error: BaseException) -> str | None:
  """Returns a line for an error that lack of memory caused, else None."""
  for each in _chain(error):
    what = _shortage(each)
    if what and SAYS_MANY_FILES in str(each):
      return MANY_FILES
    if what:
      return f'{what} ({first_line(each)[:200]}): {_REMEDY}'
  return None


def _chain(error: BaseException | None) -> Iterator[BaseException]:
  """Yields an error, then its cause or context, and so on."""
  seen: set[int] = set()
  while error is not None and id(error) not in seen:
    seen.add(id(error))
    yield error
    error = error.__cause__ or error.__context__


def _shortage(error: BaseException) -> str | None:
  text = str(error)
  if isinstance(error, MemoryError):
    return 'memory ran out'
  if isinstance(error, OSError):
    return 'memory ran out' if error.errno == errno.ENOMEM else None
  if isinstance(error, ImportError) and _NOT_MAPPED.search(text):
    return 'memory ran out while a library was loaded'
  if isinstance(error, SystemError):
    return 'memory ran out' if text == _NO_EXCEPTION else None
  if isinstance(error, ValueError) and not text.startswith(_STATUS):
    return None  # it may quote a user's text
  if not isinstance(error, RuntimeError | ValueError):
    return None
  if _NO_THREAD.search(text):
    return 'memory, or the number of threads (ulimit -u), ran out'
  if _RAN_OUT.search(text) and not SAYS_DISK_FULL.search(text):
    return 'memory ran out'
  return None


def install() -> None:
  """Prints one line if an error that nobody catches is lack of memory."""
  default = sys.excepthook

  def hook(
    kind: type[BaseException],
    error: BaseException,
    trace: TracebackType | None,
  ) -> None:
    line = explain_shortage(error)
    if line is None:
      return default(kind, error, trace)
    print(f'error: {line}', file=sys.stderr, flush=True)
    os._exit(1)  # what was loaded may not be able to end

  sys.excepthook = hook
