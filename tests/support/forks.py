"""Starts commands as forks of a process that has imported their libraries.

Importing JAX takes a command two seconds of CPU time, a fork takes none. The
fork runs the command's module as `python -m` does, on Linux.
"""

import ctypes
import gc
import importlib
import json
import os
import pathlib
import runpy
import socket
import subprocess
import sys
import warnings

from gpt1_jax import interrupts

_ROOT = pathlib.Path(__file__).resolve().parents[2]
# Imported before the first fork. None defines the flags of one command.
_MODULES = (
  'optax',
  'orbax.checkpoint',
  'gpt1_jax.cli',
  'gpt1_jax.corpus.preparation',
  'gpt1_jax.interop.conversion',
  'gpt1_jax.tasks.finetuning',
  'gpt1_jax.train.pretraining',
)
_SET_CHILD_SUBREAPER = 36  # prctl(2)


class Server:
  """A process that forks for each command; forks live on when it ends."""

  def __init__(self, env: dict[str, str]):
    # Forks become children of this process, as of `subprocess`.
    ctypes.CDLL(None).prctl(_SET_CHILD_SUBREAPER, 1, 0, 0, 0)
    self._ours, theirs = socket.socketpair(type=socket.SOCK_SEQPACKET)
    with theirs:
      self._process = subprocess.Popen(
        [sys.executable, '-m', __name__, str(theirs.fileno())],
        cwd=_ROOT,
        env=env,
        pass_fds=[theirs.fileno()],
        stdin=subprocess.DEVNULL,
        stdout=subprocess.DEVNULL,
      )

  def start(self, module: str, *args: str) -> subprocess.Popen[str]:
    """Runs a module, or -c and code, in a fork with pipes for its output."""
    return _Fork(self._ours, [module, *args])

  def close(self) -> None:
    """Ends the server."""
    self._ours.close()
    self._process.wait()


class _Fork(subprocess.Popen[str]):
  """A child of this process that a server has forked."""

  def __init__(self, server: socket.socket, words: list[str]):
    self._server = server
    super().__init__(
      words, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True
    )

  def _execute_child(self, args: list[str], *settings) -> None:
    _, stdout, _, stderr = settings[11:15]
    request = json.dumps(args).encode()
    socket.send_fds(self._server, [request], [stdout, stderr])
    self.pid = int(self._server.recv(100))
    self._child_created = True
    os.close(stdout)
    os.close(stderr)


def _serve(server: socket.socket) -> list[str]:
  """Forks for each request until its client ends; returns in the forks."""
  while True:
    request, streams, *_ = socket.recv_fds(server, 1 << 20, 2)
    if not request:
      sys.exit()
    reader, writer = os.pipe()
    if not _fork():
      if pid := _fork():
        os.write(writer, b'%d' % pid)
        os._exit(0)  # leaves the fork to the client
      server.close()
      os.dup2(streams[0], 1)
      os.dup2(streams[1], 2)
      os.closerange(min(streams), max(writer, *streams) + 1)
      # As Python does at its start.
      sys.stdout = os.fdopen(1, 'w', closefd=False)
      sys.stderr = os.fdopen(
        2, 'w', 1, errors='backslashreplace', closefd=False
      )
      return json.loads(request)
    os.wait()
    server.send(os.read(reader, 100))
    for descriptor in (reader, writer, *streams):
      os.close(descriptor)


def _fork() -> int:
  with warnings.catch_warnings(action='ignore'):  # JAX warns; it has not begun
    return os.fork()


if __name__ == '__main__':
  for module in _MODULES:
    importlib.import_module(module)
  gc.freeze()
  sys.argv = _serve(socket.socket(fileno=int(sys.argv[1])))
  if sys.argv[0] == '-c':
    exec(sys.argv.pop(1), {'__name__': '__main__'})
  else:
    interrupts.install()  # as the package does if a command imports it
    runpy.run_module(sys.argv[0], run_name='__main__', alter_sys=True)
