"""Ends the job with one line when a host hangs or is lost.

JAX's own heartbeat ends it too, but by aborting with a page of C++ that does
not name the host. Here all hosts meet at a barrier of JAX's coordination
service every few seconds; the barrier times out, and names who is missing.
"""

import contextlib
import os
import re
import sys
import threading
import time
from collections.abc import Iterator

import jax
from jax.experimental import multihost_utils
from orbax.checkpoint import multihost

_MISSING = re.compile(r'timed out task names:\s*(?:\S*task:)?(\d+)')


@contextlib.contextmanager
def watched(seconds: float) -> Iterator[None]:
  """Watches the hosts of this job, in threads, while the context lasts.

  Args:
    seconds: a host that is silent for longer is lost. The process then ends
      with exit code 1, whatever its main thread waits for.
  """
  watch = _Watch(seconds)
  for target in (watch.meet, watch.check):
    threading.Thread(target=target, daemon=True).start()
  try:
    yield
    # Hosts are watched until all have finished.
    multihost_utils.sync_global_devices('heartbeat: finished')
  finally:
    watch.stop.set()


class _Watch:
  """Meets the other hosts in rounds, and notes when the last round ended."""

  def __init__(self, seconds: float):
    self.stop = threading.Event()
    self._seconds, self._pause = seconds, min(seconds / 8, 5.0)
    self._index, self._count = jax.process_index(), jax.process_count()
    self._barrier = multihost.get_barrier_sync_fn()
    self._met = time.monotonic()

  def meet(self) -> None:
    """Meets all hosts every few seconds; ends the process if one is missing."""
    number = 0
    while not self.stop.wait(self._pause):
      number += 1
      try:
        self._barrier(
          key=f'gpt1_jax heartbeat {number}',
          timeout_ms=round(1000 * self._seconds),
        )
      except jax.errors.JaxRuntimeError as error:
        missing = _MISSING.search(str(error))
        if missing and not self.stop.is_set():
          self._end_silent(int(missing[1]))
      else:
        self._met = time.monotonic()

  def check(self) -> None:
    """Ends the process if host 0, which serves the barriers, is silent."""
    before = time.monotonic()
    while not self.stop.wait(self._pause):
      now = time.monotonic()
      if now - before > self._seconds:
        self._end(f'{self._name(self._index)} was stopped, and is late')
      if now - self._met > self._seconds + 3 * self._pause:
        self._end_silent(0)
      before = now

  def _end_silent(self, lost: int) -> None:
    if self._index == 0:
      # When host 0 ends, JAX aborts the others: let them report first.
      time.sleep(2 * self._pause)
    self._end(
      f'{self._name(lost)} has given no sign of life for {self._seconds:g} s '
      '(--heartbeat_timeout): it hangs, or its network does; '
      f'{self._name(self._index)} stops'
    )

  def _end(self, message: str) -> None:
    print(
      f'error: {message}. The last checkpoint is intact; the same command on '
      'all hosts resumes from it',
      file=sys.stderr,
      flush=True,
    )
    os._exit(1)  # the main thread waits for a host that will not come

  def _name(self, host: int) -> str:
    return f'host {host} of {self._count}'
