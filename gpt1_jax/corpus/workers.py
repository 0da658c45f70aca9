"""Maps a function over a stream of items in worker processes, in order."""

import collections
import concurrent.futures
import contextlib
import multiprocessing
import os
import signal
import sys
import threading
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import process
from typing import TypeVar

from gpt1_jax import interrupts
from gpt1_jax.errors import Stopped, UserError

_IN_FLIGHT = 3  # items for each worker
T = TypeVar('T')
R = TypeVar('R')


class Workers:
  """A process pool that maps a function over items, a few at a time."""

  def __init__(self, count: int):
    self._count = count
    # multiprocessing's own helper removes what a process leaves that exits at
    # once. It need not say so.
    sys.warnoptions.append('ignore:resource_tracker')
    self._pool = concurrent.futures.ProcessPoolExecutor(
      count, multiprocessing.get_context('spawn'), _start_worker
    )

  def __enter__(self) -> 'Workers':
    return self

  def __exit__(self, *_: object) -> None:
    self._pool.shutdown(cancel_futures=True)

  def map(self, function: Callable[[T], R], items: Iterable[T]) -> Iterator[R]:
    """Maps like `map`, but takes items only as results are consumed.

    Raises:
      UserError: a worker was killed.
    """
    pending: collections.deque[concurrent.futures.Future[R]]
    pending = collections.deque()
    try:
      for item in items:
        # While a worker starts, which is born with SIGINT blocked: Ctrl-C
        # reaches it, too, even before `_start_worker`.
        with interrupts.delayed(), _blocked(signal.SIGINT):
          pending.append(self._pool.submit(function, item))
        if len(pending) >= _IN_FLIGHT * self._count:
          yield pending.popleft().result()
      while pending:
        yield pending.popleft().result()
    except process.BrokenProcessPool:
      if name := interrupts.requested():  # the signal reached the workers too
        raise Stopped(f'stopped by {name}: run it again') from None
      raise UserError(
        'a worker process was killed, probably because memory ran out; try '
        'fewer --workers'
      ) from None


@contextlib.contextmanager
def _blocked(number: signal.Signals) -> Iterator[None]:
  """Blocks a signal in this thread and in the processes that it starts.

  Other threads of this process still receive it.
  """
  before = signal.pthread_sigmask(signal.SIG_BLOCK, [number])
  try:
    yield
  finally:
    signal.pthread_sigmask(signal.SIG_SETMASK, before)


def _start_worker() -> None:
  """Ignores Ctrl-C, and ends the worker when its parent ends."""
  signal.signal(signal.SIGINT, signal.SIG_IGN)
  parent = multiprocessing.parent_process()
  assert parent is not None

  def watch() -> None:
    parent.join()
    os._exit(1)

  threading.Thread(target=watch, daemon=True).start()
