"""Keeps a run alive when its terminal or its output's reader is gone."""

import errno
import os
import signal
import sys
from typing import Any

from gpt1_jax.errors import DISK_FULL

_GONE = (errno.EPIPE, errno.EIO)


def outlive() -> None:
  """Ignores SIGHUP, and discards output that nobody reads or no disk holds."""
  signal.signal(signal.SIGHUP, signal.SIG_IGN)
  if sys.stdout:
    sys.stdout = _Outliving(sys.stdout)
  if sys.stderr:
    sys.stderr = _Outliving(sys.stderr)


class _Outliving:
  """A text stream that discards output that cannot be written."""

  def __init__(self, stream: Any):
    self._stream = stream

  def __getattr__(self, name: str) -> Any:
    return getattr(self._stream, name)

  def write(self, text: str) -> int:
    """Writes text, or discards it if the reader is gone."""
    try:
      self._stream.write(text)
    except OSError as error:
      self._discard(error)
    return len(text)

  def flush(self) -> None:
    """Flushes the stream, or discards its content if the reader is gone."""
    try:
      self._stream.flush()
    except OSError as error:
      self._discard(error)

  def _discard(self, error: OSError) -> None:
    """Drops a line if the disk is full, all output if its reader is gone."""
    if error.errno in DISK_FULL:
      return  # the disk may have space again later
    if error.errno not in _GONE:
      raise error
    null = os.open(os.devnull, os.O_WRONLY)
    os.dup2(null, self._stream.fileno())
    os.close(null)
