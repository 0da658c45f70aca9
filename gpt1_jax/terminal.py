"""Reads and writes UTF-8; prints warnings; outlives terminal and reader."""

import errno
import io
import logging
import os
import signal
import sys
from typing import Any

from absl import logging as absl_logging

from gpt1_jax.errors import DISK_FULL

_MODE = 'PYTHONUTF8'
_GONE = (errno.EPIPE, errno.EIO)
READER_GONE = 128 + signal.SIGPIPE  # exit code, as of programs that it kills
_STDOUT = 'standard output'


def ensure_utf8() -> None:
  """Starts Python anew in UTF-8 mode if it takes all text for ASCII.

  LC_ALL=C with PYTHONUTF8=0 does so: arguments, names of files and the text of
  pipes would not be what they are.
  """
  if sys.getfilesystemencoding() == 'ascii' and os.environ.get(_MODE) != '1':
    os.environ[_MODE] = '1'
    os.execv(sys.executable, [sys.executable, *sys.orig_argv[1:]])


def guard_streams() -> None:
  """Makes errors of stdout name it; discards text that stderr cannot write.

  A log on a full disk must not end a command.
  """
  for stream in (sys.stdout, sys.stderr):
    if isinstance(stream, io.TextIOWrapper):  # ASCII lacks \u2047
      stream.reconfigure(errors='backslashreplace')
  if sys.stdout:
    sys.stdout = _Naming(sys.stdout)
  if sys.stderr:
    sys.stderr = _Outliving(sys.stderr)


class _Plain(logging.Formatter):
  def format(self, record: logging.LogRecord) -> str:
    return f'{record.levelname.lower()}: {super().format(record)}'


def plain_warnings() -> None:
  """Prints warnings as one plain line, and once.

  A library may have added a handler of its own.
  """
  handler = absl_logging.get_absl_handler()
  handler.setFormatter(_Plain())
  logging.getLogger().handlers = [handler]


def reader_is_gone(error: Exception) -> bool:
  """Returns True if the reader of standard output has gone, such as `head`."""
  return isinstance(error, BrokenPipeError) and error.filename == _STDOUT


def outlive() -> None:
  """Ignores SIGHUP; discards output without a reader or on a full disk."""
  signal.signal(signal.SIGHUP, signal.SIG_IGN)
  if isinstance(sys.stdout, _Naming):
    sys.stdout = _Outliving(sys.stdout.stream)


class _Stream:
  """A text stream that passes errors to `failed`."""

  def __init__(self, stream: Any):
    self.stream = stream

  def __getattr__(self, name: str) -> Any:
    return getattr(self.stream, name)

  def write(self, text: str) -> int:
    """Writes text."""
    try:
      self.stream.write(text)
    except OSError as error:
      self.failed(error)
    return len(text)

  def flush(self) -> None:
    """Flushes the stream."""
    try:
      self.stream.flush()
    except OSError as error:
      self.failed(error)

  def failed(self, error: OSError) -> None:
    """Handles an error of the stream."""
    raise NotImplementedError

  def _discard(self) -> None:
    """Discards what is buffered and all that follows."""
    null = os.open(os.devnull, os.O_WRONLY)
    os.dup2(null, self.stream.fileno())
    os.close(null)


class _Naming(_Stream):
  """Names standard output in its first error; then discards all output."""

  def failed(self, error: OSError) -> None:
    self._discard()  # else Python fails again when it exits
    raise OSError(error.errno, error.strerror, _STDOUT) from None


class _Outliving(_Stream):
  """Discards output that cannot be written."""

  def failed(self, error: OSError) -> None:
    """Drops a line if the disk is full, all output if its reader is gone."""
    if error.errno in DISK_FULL:
      return  # the disk may have space again later
    if error.errno not in _GONE:
      raise error
    self._discard()
