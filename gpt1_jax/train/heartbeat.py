"""Ends the job with a one-line error when a host hangs or is lost.

JAX's own heartbeat also ends the job, but aborts with a C++ stack trace that
does not name the host. Here all hosts meet every few seconds at a barrier of
JAX's coordination service. If the barrier times out, it names the missing host.
If a process dies, JAX notices first; `report_losses` replaces its abort.
"""

import contextlib
import ctypes
import functools
import json
import os
import re
import sys
import threading
import time
from collections.abc import Iterator
from typing import NoReturn

import jax
import jaxlib
from jax.experimental import multihost_utils
from orbax.checkpoint import multihost

from gpt1_jax.errors import RunError

_UNHEALTHY = re.compile(r'task:(\d+)')
_ending = threading.Lock()  # held by the thread that ends the process
_FAILURE = 'gpt1_jax failure of a host'  # key in JAX's store
_NOTICE = 1.0  # seconds between looks for that key
_MISSING = re.compile(r'timed out task names:\s*(?:\S*task:)?(\d+)')


def report_losses() -> None:
  """Makes JAX report a lost host in one line, instead of a C++ stack trace.

  JAX accepts a callback for this, but its public function has no argument for
  it. jaxlib 0.10 also fails to pass the status to Python: it throws, which
  calls C++'s termination handler. So this sets both. Call it before
  `jax.distributed.initialize`.
  """
  native = getattr(jaxlib, '_jax', None)
  connect = getattr(native, 'get_distributed_runtime_client', None)
  if native and connect and not isinstance(connect, functools.partial):
    native.get_distributed_runtime_client = functools.partial(
      connect, missed_heartbeat_callback=_lost
    )
  with contextlib.suppress(OSError, AttributeError):  # not the GNU C++ library
    library = ctypes.CDLL('libstdc++.so.6')
    library._ZSt13set_terminatePFvvE(_terminated)  # std::set_terminate


def _lost(status: object = None) -> None:
  """Ends the process; JAX calls it in a separate thread."""
  found = _UNHEALTHY.search(str(status))
  host = f'host {found[1]}' if found else 'host 0, which serves the others,'
  end(f'{host} was lost; host {jax.process_index()} stops')


_terminated = ctypes.CFUNCTYPE(None)(_lost)


def claim_end() -> None:
  """Makes this thread the one that ends the process; blocks all others."""
  if not _ending.acquire(blocking=False):
    time.sleep(100)


def end(message: str) -> None:
  """Ends the process with one line; the main thread may be blocked."""
  claim_end()
  _leave(
    f'{message}. The last checkpoint is intact; the same command on all hosts '
    'resumes from it',
    RunError.exit_code,
  )


def _leave(message: str, code: int) -> NoReturn:
  with contextlib.suppress(OSError):
    print(f'error: {message}', file=sys.stderr, flush=True)
  os._exit(code)


def tell(message: str, code: int) -> None:
  """Tells the other hosts why this one is about to end, and with which code."""
  claim_end()
  index = jax.process_index()
  told = json.dumps([f'host {index}: {message}', code])
  with contextlib.suppress(jax.errors.JaxRuntimeError):  # another one has told
    multihost.get_jax_distributed_client().key_value_set(_FAILURE, told)
  if index == 0:
    time.sleep(3 * _NOTICE)  # JAX aborts the others once host 0 exits


@contextlib.contextmanager
def watched(seconds: float) -> Iterator[None]:
  """Watches the job's hosts from background threads within the context.

  Args:
    seconds: timeout after which a silent host counts as lost. The process then
      exits with code 1, even if its main thread is blocked.
  """
  watch = _Watch(seconds)
  for target in (watch.meet, watch.check):
    threading.Thread(target=target, daemon=True).start()
  listener = threading.Thread(target=watch.listen, daemon=True)
  listener.start()
  try:
    yield
    # Hosts are watched until all have finished.
    multihost_utils.sync_global_devices('heartbeat: finished')
  finally:
    watch.stop.set()
    listener.join(5)  # JAX's service must not end while a thread asks it


class _Watch:
  """Meets the other hosts at barriers; records the time of the last one."""

  def __init__(self, seconds: float):
    self.stop = threading.Event()
    self._seconds, self._pause = seconds, min(seconds / 8, 5.0)
    self._index, self._count = jax.process_index(), jax.process_count()
    self._barrier = multihost.get_barrier_sync_fn()
    self._met = time.monotonic()

  def meet(self) -> None:
    """Joins a barrier every few seconds; ends the process if it times out."""
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
    """Ends the process if host 0, which serves the barriers, goes silent."""
    before = time.monotonic()
    while not self.stop.wait(self._pause):
      now = time.monotonic()
      if now - before > self._seconds:
        end(f'{self._name(self._index)} was suspended for too long')
      if now - self._met > self._seconds + 3 * self._pause:
        self._end_silent(0)
      before = now

  def listen(self) -> None:
    """Ends the process once another host has told why it fails."""
    service = multihost.get_jax_distributed_client()
    told = None
    while told is None and not self.stop.wait(_NOTICE):
      with contextlib.suppress(jax.errors.JaxRuntimeError):  # nobody has
        told = service.key_value_try_get(_FAILURE)
    # All may have failed alike, and each has a line of its own.
    if told is None or self.stop.wait(_NOTICE):
      return
    message, code = json.loads(told)
    claim_end()
    if self._index == 0:
      time.sleep(2 * _NOTICE)  # JAX aborts the others once host 0 exits
    _leave(message, code)

  def _end_silent(self, lost: int) -> None:
    if self._index == 0:
      # JAX aborts the others once host 0 exits, so let them report first.
      time.sleep(2 * self._pause)
    end(
      f'{self._name(lost)} has not responded for {self._seconds:g} s '
      '(--heartbeat_timeout): it is hanging or unreachable; '
      f'{self._name(self._index)} stops'
    )

  def _name(self, host: int) -> str:
    return f'host {host} of {self._count}'
