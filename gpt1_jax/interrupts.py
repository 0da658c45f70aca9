"""Turns SIGTERM, Ctrl-C and similar into an orderly end with exit code 75.

Python runs its own handlers between two steps of the main thread, which may be
inside a compiler for minutes. A thread therefore reads the signals from a
wake-up file descriptor. Their effect depends on the phase of the command:

  EXIT    The process exits at once: there is nothing to clean up.
  RAISE   The main thread raises `Stopped` and cleans up.
  DELAY   As RAISE, but at the end of a short step that must be complete.
  RECORD  The signal is recorded; the training loop asks `requested`.

A second SIGINT exits at once. A second SIGTERM changes nothing.
"""

import contextlib
import enum
import os
import signal
import socket
import sys
import threading
import time
from collections.abc import Iterator
from types import FrameType
from typing import Any

from gpt1_jax.errors import Stopped

EXIT_CODE = 75  # EX_TEMPFAIL: the same command continues
_SIGNALS = (
  signal.SIGTERM,
  signal.SIGINT,
  signal.SIGHUP,
  # Schedulers announce a time limit with one of these.
  signal.SIGUSR1,
  signal.SIGUSR2,
  signal.SIGXCPU,
)
_SAME_KEY = 0.05  # seconds; a wrapper may deliver one Ctrl-C twice
_UNWINDING = 10.0  # seconds after a `Stopped` in which signals raise no other


class Phase(enum.Enum):
  """The phases of a command; see the module's docstring."""

  EXIT = enum.auto()
  RAISE = enum.auto()
  DELAY = enum.auto()
  RECORD = enum.auto()


class _Interrupts:
  """Holds the signals that the process has received, and its phase."""

  def __init__(self) -> None:
    self.phase = Phase.EXIT
    self.received: str | None = None
    self.relayed = False
    self.delayed: int | None = None
    self._interrupted: float | None = None  # time of the first SIGINT
    self.stopped: Stopped | None = None  # once it was raised
    self._raised = -_UNWINDING
    self._ignored = sys.unraisablehook
    self._reader, self._writer = socket.socketpair()
    self._writer.setblocking(False)

  def install(self) -> None:
    """Handles the signals from now on."""
    signal.set_wakeup_fd(self._writer.fileno(), warn_on_full_buffer=False)
    _set_handlers(self.raise_stopped)
    os.register_at_fork(after_in_child=_restore)
    sys.unraisablehook = self._raise_again
    threading.Thread(target=self._listen, daemon=True).start()

  def _listen(self) -> None:
    while numbers := self._reader.recv(64):
      for number in numbers:
        if number in _SIGNALS:
          self._note(signal.Signals(number))

  def _note(self, number: signal.Signals) -> None:
    """Records a signal, in the listening thread."""
    now = time.monotonic()
    if number == signal.SIGINT:
      first, self._interrupted = self._interrupted, self._interrupted or now
      if first is not None and now - first > _SAME_KEY:
        _exit('interrupted twice: exiting at once; saved work is intact', 130)
    is_first, self.received = self.received is None, number.name
    if self.phase is Phase.EXIT:
      _exit(f'stopped by {number.name}: run the same command again')
    if self.relayed and number != signal.SIGTERM:
      os.kill(os.getpid(), signal.SIGTERM)  # JAX tells the other hosts
    if is_first and self.phase is Phase.RECORD:
      bar = '\n' if sys.stderr and sys.stderr.isatty() else ''
      _say(
        f'{bar}{number.name}: finishing what runs now, then saving; a second '
        'Ctrl-C exits at once'
      )

  def raise_stopped(self, number: int, frame: FrameType | None = None) -> None:
    """Raises `Stopped` in the main thread, if the phase is RAISE."""
    del frame
    if self.phase is Phase.DELAY:
      self.delayed = number
    if self.phase is not Phase.RAISE or self.relayed:
      return
    now = time.monotonic()
    if now - self._raised > _UNWINDING:
      self._raised = now
      name = signal.Signals(number).name
      self.stopped = self.stopped or Stopped(
        f'stopped by {name}: run the same command again'
      )
      raise self.stopped

  def _raise_again(self, found: 'sys.UnraisableHookArgs') -> None:
    """Raises a `Stopped` again that Python ignored, as in a `__del__`."""
    if not isinstance(found.exc_value, Stopped):
      return self._ignored(found)
    self._raised = -_UNWINDING
    again = (os.getpid(), signal.SIGTERM)  # a second SIGINT exits at once
    threading.Timer(_SAME_KEY, os.kill, again).start()


_interrupts: _Interrupts | None = None


def install() -> None:
  """Handles signals in this process, once; the phase is EXIT."""
  global _interrupts
  if _interrupts is None:
    _interrupts = _Interrupts()
    _interrupts.install()


def enter(phase: Phase) -> None:
  """Begins a phase."""
  if _interrupts:
    _interrupts.phase = phase


@contextlib.contextmanager
def within(phase: Phase) -> Iterator[None]:
  """Begins a phase and returns to the previous one after the context."""
  before = _interrupts.phase if _interrupts else phase
  enter(phase)
  try:
    yield
  finally:
    enter(before)


def importing() -> contextlib.AbstractContextManager[None]:
  """Exits at once on a signal, while nothing has been started.

  An exception in the middle of importing jax can crash the interpreter.
  """
  return within(Phase.EXIT)


@contextlib.contextmanager
def delayed() -> Iterator[None]:
  """Delays `Stopped` to the end of the context, such as the start of a process.

  Has no effect in the phases EXIT and RECORD.
  """
  if _interrupts is None or _interrupts.phase is not Phase.RAISE:
    yield
    return
  with within(Phase.DELAY):
    yield
  number, _interrupts.delayed = _interrupts.delayed, None
  if number is not None:
    _interrupts.raise_stopped(number)


@contextlib.contextmanager
def unwrapped() -> Iterator[None]:
  """Raises `Stopped` even if a library has turned it into an error.

  XLA does so with an exception in Python code that it calls.
  """
  try:
    yield
  except Exception:
    if _interrupts and _interrupts.stopped:
      raise _interrupts.stopped from None
    raise


def requested() -> str | None:
  """Returns the name of a signal that asked this process to stop, or None."""
  return _interrupts.received if _interrupts else None


def release() -> None:
  """Restores Python's own handlers: Ctrl-C raises KeyboardInterrupt.

  For programs that end by themselves, such as a prompt or a server.
  """
  if _interrupts is None:
    return
  _restore()
  signal.signal(signal.SIGINT, signal.default_int_handler)


def ignore() -> None:
  """Ignores the signals from now on: the command has ended.

  Otherwise Python would restore their default effect while it exits.
  """
  if _interrupts:
    for number in _SIGNALS:
      signal.signal(number, signal.SIG_IGN)


def relay() -> None:
  """Passes every signal on as SIGTERM, which JAX's service now handles.

  JAX tells the other hosts of it, so that all stop after the same update.
  """
  if _interrupts is None:
    return
  _interrupts.relayed = True
  if _interrupts.received:
    os.kill(os.getpid(), signal.SIGTERM)


def _restore() -> None:
  """Sets the default handlers, as in a forked child."""
  signal.set_wakeup_fd(-1)
  _set_handlers(signal.SIG_DFL)


def _set_handlers(handler: Any) -> None:
  """Sets the handler of all signals, except SIGHUP if nohup ignores it."""
  for number in _SIGNALS:
    is_ignored = signal.getsignal(number) is signal.SIG_IGN
    if not (number == signal.SIGHUP and is_ignored):
      signal.signal(number, handler)


def _say(message: str) -> None:
  with contextlib.suppress(OSError):
    print(message, file=sys.stderr, flush=True)


def _exit(message: str, code: int = EXIT_CODE) -> None:
  _say(message)
  os._exit(code)
