"""Runs all requests of the server in one batch, in a separate thread."""

import asyncio
import collections
import contextlib
import sys
import threading
import time
from collections.abc import AsyncIterator, Callable
from typing import Any

import jax

from gpt1_jax.inference.continuation import Continuation, Piece
from gpt1_jax.inference.loading import Run
from gpt1_jax.inference.options import Options
from gpt1_jax.model import inspection
from gpt1_jax.train import malloc

MAX_BATCH = 32  # texts generated at the same time
MAX_WAITING = 1024  # texts that may wait for a place in the batch
_SECONDS = 0.1  # seconds; shorter compilations are not reported


def _call_soon(
  loop: asyncio.AbstractEventLoop, function: Callable[..., None], *args: Any
) -> None:
  """Calls a function in an event loop, from another thread."""
  with contextlib.suppress(RuntimeError):  # it has ended: nobody waits
    loop.call_soon_threadsafe(function, *args)


class BusyError(Exception):
  """Raised if too many texts are waiting."""


class Job:
  """A sample in the engine, and the queue through which a request reads it."""

  def __init__(self, sample: Continuation):
    self.sample = sample
    self.cancelled = False
    self._loop = asyncio.get_running_loop()
    self._queue: asyncio.Queue[Piece | Exception] = asyncio.Queue()

  def put(self, piece: Piece | Exception) -> None:
    """Passes a token or an error to the request; may run in any thread."""
    if not self.cancelled:
      _call_soon(self._loop, self._queue.put_nowait, piece)

  async def pieces(self) -> AsyncIterator[Piece]:
    """Yields the tokens as they arrive."""
    while True:
      piece = await self._queue.get()
      if isinstance(piece, Exception):
        raise piece
      yield piece
      if piece.last:
        return


class Engine:
  """Owns the device: all computation runs in its thread."""

  def __init__(self, run: Run):
    self.run = run
    self._room = run.config.n_ctx  # one width of the cache: compiled once
    self._waiting: collections.deque[Job] = collections.deque()
    self._calls: collections.deque[Callable[[], None]] = collections.deque()
    self._wake = threading.Condition()
    self._stopped = self._compiled = False
    jax.monitoring.register_event_duration_secs_listener(self._heard)
    self._thread = threading.Thread(target=self._work, daemon=True)
    self._thread.start()

  def close(self) -> None:
    """Ends the thread after its current step; waits for at most a second."""
    with self._wake:
      self._stopped = True
      self._wake.notify()
    self._thread.join(timeout=1)

  def warm_up(self) -> None:
    """Compiles what the first request needs, before it comes."""
    sample = self.run.start('', Options(max_tokens=2))
    sample.row.room = self._room

    def generate() -> None:
      with contextlib.suppress(Exception):  # a request would report it
        collections.deque(self.run.follow(sample), maxlen=0)

    with self._wake:
      self._calls.append(generate)
      self._wake.notify()

  def check_room(self, count: int) -> None:
    """Raises BusyError unless `count` more texts may wait."""
    if len(self._waiting) + count > MAX_WAITING:
      raise BusyError

  def submit(self, sample: Continuation) -> Job:
    """Puts a sample into the batch, or into the queue if the batch is full."""
    sample.row.room = self._room
    job = Job(sample)
    with self._wake:
      self._waiting.append(job)
      self._wake.notify()
    return job

  async def predictions(self, ids: list[int], k: int) -> inspection.Predictions:
    """Returns log-probabilities of a text's tokens; see `Run.predictions`."""
    found = await self.call(lambda: self.run.predictions([ids], k))
    return found[0]

  async def call(self, function: Callable[[], Any]) -> Any:
    """Runs a function in the engine's thread, between two steps."""
    loop = asyncio.get_running_loop()
    future: asyncio.Future[Any] = loop.create_future()

    def settle(result: Any, error: Exception | None) -> None:
      if future.cancelled():
        return
      if error:
        future.set_exception(error)
      else:
        future.set_result(result)

    def work() -> None:
      try:
        result, error = function(), None
      except Exception as raised:  # raised in the caller
        result, error = None, raised
      _call_soon(loop, settle, result, error)

    with self._wake:
      self._calls.append(work)
      self._wake.notify()
    return await future

  def _heard(
    self, event: str, duration_secs: float, **kwargs: str | int
  ) -> None:
    """Notes a compilation in the engine's thread."""
    del kwargs
    if threading.current_thread() is self._thread:
      self._compiled |= event == malloc.COMPILED and duration_secs >= _SECONDS

  def _report(self, what: str, start: float) -> None:
    """Prints a line if work since `start` included a compilation."""
    if self._compiled:
      self._compiled = False
      seconds = time.perf_counter() - start
      with contextlib.suppress(OSError):  # a lost line ends no request
        print(
          f'compiled {what} in {seconds:.1f} s', file=sys.stderr, flush=True
        )

  def _work(self) -> None:
    decoder, jobs = None, list[Job]()
    while True:
      with self._wake:
        while not (jobs or self._waiting or self._calls or self._stopped):
          self._wake.wait()
        if self._stopped:
          return
        call = self._calls.popleft() if self._calls else None
        while self._waiting and len(jobs) < MAX_BATCH:
          jobs.append(self._waiting.popleft())
      start = time.perf_counter()
      if call:
        call()
        self._report('for a prompt', start)
      jobs = [job for job in jobs if not job.cancelled]
      if not jobs:
        continue
      try:
        decoder = decoder or self.run.decoder()
        start = time.perf_counter()
        tokens = decoder.step([job.sample.row for job in jobs])
        self._report(f'for a batch of {len(jobs)}', start)
        for job, token in zip(jobs, tokens, strict=True):
          job.put(job.sample.feed(token))
      except Exception as error:  # raised in every request of the batch
        for job in jobs:
          job.put(error)
        jobs, decoder = [], None
      jobs = [job for job in jobs if job.sample.finish_reason is None]
