"""A host that hangs ends the job, in a line that names it.

JAX notices too, but by aborting with a page of C++. Each host counts upwards
in the job's key-value store, which process 0 serves, and watches the others; a
host that is stopped, swaps or is cut off does not count.
"""

import contextlib
import os
import sys
import threading
import time
from collections.abc import Iterator
from typing import Any

import jax

_KEY = 'gpt1_jax/heartbeat'
_END = 'end'


@contextlib.contextmanager
def kept(client: Any, index: int, count: int, seconds: float) -> Iterator[None]:
  """Counts and watches, in threads of its own, as long as the context lasts.

  Args:
    client: of the key-value store: key_value_set, key_value_dir_get.
    index, count: which host this is, of how many.
    seconds: a host that is silent for longer is lost: this process ends with
      exit code 1, whatever its main thread waits for.
  """
  beats = _Beats(client, index, count, seconds)
  for target in (beats.beat, beats.watch):
    threading.Thread(target=target, daemon=True).start()
  try:
    yield
    beats.end()
  finally:
    # Also after an error: the others are to hear no more of this host.
    beats.stop.set()


class _Beats:
  """What this host knows of the others."""

  def __init__(self, client: Any, index: int, count: int, seconds: float):
    self.stop = threading.Event()
    self._client, self._index, self._count = client, index, count
    self._seconds, self._pause = seconds, min(seconds / 8, 5.0)
    now = time.monotonic()
    self._heard = dict.fromkeys(range(count), ('', now))

  def beat(self) -> None:
    """Counts, and listens to the others; stuck if process 0 is."""
    number = 0
    while not self.stop.wait(self._pause):
      number += 1
      try:
        self._say(str(number))
        found = self._client.key_value_dir_get(_KEY)
      except jax.errors.JaxRuntimeError:
        continue  # `watch` has the time
      for key, value in found:
        host = int(key.rpartition('/')[2])
        if self._heard[host][0] != value:
          self._heard[host] = (value, time.monotonic())

  def watch(self) -> None:
    """Ends the process when a host has been silent for too long."""
    before = time.monotonic()
    while not self.stop.wait(self._pause):
      now = time.monotonic()
      if now - before > self._seconds:
        _exit(f'host {self._name(self._index)} was itself stopped, and is late')
      before = now
      silent = [
        host
        for host, (value, heard) in self._heard.items()
        if value != _END and now - heard > self._seconds
      ]
      if not silent or self.stop.is_set():
        continue
      # Through process 0 the others are heard: nobody, if it is not there.
      lost = 0 if 0 in silent else silent[0]
      if self._index == 0:
        # When this one ends, JAX aborts the others: they speak first.
        time.sleep(2 * self._pause)
      _exit(
        f'host {self._name(lost)} has given no sign of life for '
        f'{self._seconds:g} s (--heartbeat_timeout): it hangs, or the network '
        f'does; host {self._name(self._index)} stops'
      )

  def end(self) -> None:
    """Tells the others that silence is in order from now on."""
    with contextlib.suppress(jax.errors.JaxRuntimeError):
      self._say(_END)

  def _say(self, value: str) -> None:
    key = f'{_KEY}/{self._index}'
    self._client.key_value_set(key, value, allow_overwrite=True)

  def _name(self, host: int) -> str:
    return f'{host} of {self._count}'


def _exit(message: str) -> None:
  print(
    f'error: {message}. The last checkpoint is intact, the same command on all '
    'hosts goes on from it',
    file=sys.stderr,
    flush=True,
  )
  # The main thread waits for a host that will not come, and cannot be asked.
  os._exit(1)
