"""Watches a run's progress: checks for signals, and ends a stuck run.

Every host calls `asked` and `beat` the same number of times in the same order.
A host that stops calling `beat` is stuck, even if it is alive and sends
heartbeats: its file system may hang, or another host may never join a
collective.
"""

import contextlib
import faulthandler
import functools
import itertools
import json
import os
import platform
import sys
import threading
import time
from collections.abc import Iterator
from typing import NamedTuple

import jax
from orbax.checkpoint import multihost

from gpt1_jax import interrupts
from gpt1_jax.errors import Stopped
from gpt1_jax.train import heartbeat

# jax.monitoring events: XLA compiles between the first and the second.
_LOWERED = '/jax/core/compile/jaxpr_to_mlir_module_duration'
_COMPILED = '/jax/core/compile/backend_compile_duration'

# Milliseconds to wait for other hosts to notice that they are stuck, too.
_ANSWER = 60_000

# Seconds of one compilation; after 120, XLA suggests filing a bug.
_SLOW = 100

_calls = itertools.count(1)


def asked() -> bool:
  """Returns True if a signal asks the run to stop.

  On several hosts it returns True on all of them at the same call, once any of
  them has been signalled. JAX synchronises by the number of calls, not of
  updates: otherwise hosts that have not called yet would agree on an update
  that has passed.
  """
  if jax.process_count() == 1:
    return interrupts.requested() is not None
  return multihost.reached_preemption(next(_calls))


def stopped(after: str) -> Stopped:
  """Returns the exception that stops the run on all hosts."""
  name = interrupts.requested() or 'a signal to one of the hosts'
  return Stopped(f'stopped by {name} {after}; the same command continues')


def tick(doing: str) -> None:
  """Reports a finished piece of work other than an update, such as a batch.

  Raises:
    Stopped: a signal asks the run to stop.
  """
  beat(doing)
  if asked():
    raise stopped(f'while {doing}')


def beat(doing: str) -> None:
  """Reports that a piece of work is finished, and names the next one."""
  if _watch:
    _watch.idle, _watch.doing, _watch.compiling = 0.0, doing, False
    _watch.beats += 1


class _Watch:
  """Ends the process if no piece of work is finished for too long."""

  def __init__(self, minutes: float):
    self.idle, self.doing, self.compiling = 0.0, 'starting', False
    self.beats = 0
    self.done = threading.Event()
    self._minutes = minutes

  def check(self) -> None:
    """Runs in a thread; does not count time while the process is suspended."""
    pause = min(self._minutes * 60 / 20, 5.0)
    before, compiled = time.monotonic(), 0.0
    while not self.done.wait(pause):
      now = time.monotonic()
      spent = min(now - before, 2 * pause)
      if self.compiling:
        if compiled <= _SLOW < compiled + spent:
          _warn_of_slow_compilation()
        compiled += spent
      else:
        self.idle, compiled = self.idle + spent, 0.0
      before = now
      if self.idle > self._minutes * 60:
        self._end()

  def _end(self) -> None:
    heartbeat.claim_end()
    with contextlib.suppress(OSError):
      faulthandler.dump_traceback(all_threads=True)
    mine = _Place(
      self.beats,
      jax.process_index(),
      f'{platform.node()}, process {os.getpid()}',
      self.doing,
    )
    behind = _furthest_behind(mine)
    count = jax.process_count()
    names = ' and '.join(f'host {x.host} of {count} ({x.name})' for x in behind)
    waits = f', and host {mine.host} waits' if mine not in behind else ''
    with contextlib.suppress(OSError):
      print(
        f'error: {names} made no progress for {self._minutes:g} min '
        f'(train.stall_minutes) while {behind[0].doing}{waits}; the stack of '
        'every thread here is above. The last checkpoint is intact; the '
        'same command continues from it',
        file=sys.stderr,
        flush=True,
      )
    if count > 1 and mine.host == 0:
      time.sleep(1)  # JAX aborts the others once host 0 exits
    os._exit(interrupts.EXIT_CODE)  # the main thread is blocked


class _Place(NamedTuple):
  """The progress of a stuck host.

  Attributes:
    beats: number of calls of `beat`.
    host: index of its process.
    name: its machine and process.
    doing: the work that it has not finished.
  """

  beats: int
  host: int
  name: str
  doing: str


def _furthest_behind(mine: _Place) -> list[_Place]:
  """Returns the hosts that made the fewest calls, once all hosts are stuck.

  A host that does not answer in time is left out, as if it were not stuck.
  """
  found = [mine]
  if jax.process_count() > 1:
    service = multihost.get_jax_distributed_client()
    key = 'gpt1_jax stuck host'
    with contextlib.suppress(jax.errors.JaxRuntimeError):
      service.key_value_set(f'{key} {mine.host}', json.dumps(mine))
    for host in set(range(jax.process_count())) - {mine.host}:
      with contextlib.suppress(jax.errors.JaxRuntimeError):
        text = service.blocking_key_value_get(f'{key} {host}', _ANSWER)
        found.append(_Place(*json.loads(text)))
  least = min(place.beats for place in found)
  return sorted(
    (x for x in found if x.beats == least), key=lambda place: place.host
  )


def _warn_of_slow_compilation() -> None:
  with contextlib.suppress(OSError):
    if jax.process_index() == 0:
      print(
        f'XLA has compiled for {_SLOW} s, which a large model or a busy '
        'machine can take; "Very slow compile? ... file a bug" below is only a '
        'reminder, not an error',
        file=sys.stderr,
        flush=True,
      )


_watch: _Watch | None = None


@contextlib.contextmanager
def watched(minutes: float) -> Iterator[None]:
  """Ends the process if nothing finishes for `minutes` within the context.

  Args:
    minutes: limit, not counting XLA's compilations; 0 means none.
  """
  global _watch
  if not minutes:
    yield
    return
  _listen_for_compilations()
  _watch = watch = _Watch(minutes)
  threading.Thread(target=watch.check, daemon=True).start()
  try:
    yield
  finally:
    watch.done.set()
    _watch = None


@functools.cache
def _listen_for_compilations() -> None:
  def note(event: str, duration_secs: float, **kwargs: str | int) -> None:
    del duration_secs, kwargs
    if _watch and event == _LOWERED:
      _watch.compiling = True
    elif _watch and event == _COMPILED:
      _watch.idle, _watch.compiling = 0.0, False

  jax.monitoring.register_event_duration_secs_listener(note)
