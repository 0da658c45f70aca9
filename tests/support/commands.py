"""Runs the commands of the package, and of launch/, in their own processes."""

import atexit
import contextlib
import functools
import os
import pathlib
import re
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator

from tests import QUICKLY_COMPILED
from tests.support import forks

ROOT = pathlib.Path(__file__).resolve().parents[2]
Done = subprocess.CompletedProcess[str]
_PATHS = f'{ROOT}{os.pathsep}{ROOT / "launch"}'
_SETTINGS = {'XLA_FLAGS': QUICKLY_COMPILED, 'PYTHONPATH': _PATHS}


@functools.cache
def _server() -> forks.Server:
  server = forks.Server({**os.environ, **_SETTINGS})
  atexit.register(server.close)
  return server


def start(program: str, *args: object, **env: str) -> subprocess.Popen[str]:
  """Starts a program that can import this checkout and launch/.

  A command with the usual environment is a fork; see `forks`.

  Args:
    program: a command, such as 'prepare' for `python -m gpt1_jax.prepare`; a
      file, such as 'launch/sweep.py'; or '-c'.
    *args: its arguments.
    **env: environment variables.
  """
  is_command = not program.endswith('.py') and program != '-c'
  words = list(map(str, args))
  if is_command and not env and sys.platform == 'linux':
    return _server().start(f'gpt1_jax.{program}', *words)
  first = ['-m', f'gpt1_jax.{program}'] if is_command else [program]
  return subprocess.Popen(
    [sys.executable, *first, *words],
    cwd=ROOT,
    env={**os.environ, **_SETTINGS, **env},
    text=True,
    stdout=subprocess.PIPE,
    stderr=subprocess.PIPE,
  )


def run(program: str, *args: object, **env: str) -> Done:
  """Runs a program to its end; see `start`."""
  process = start(program, *args, **env)
  out, err = process.communicate()
  return Done(process.args, process.returncode, out, err)


def run_on_full_disk(program: str, *args: object) -> Done:
  """Runs a command that may write 18 blocks (9 kB) to a file, like `run`.

  This limit fails where a full disk would.
  """
  line = f'ulimit -f 18; exec {sys.executable} "$@"'
  words = ('-m', f'gpt1_jax.{program}', *map(str, args))
  return subprocess.run(
    ['sh', '-c', line, 'sh', *words], cwd=ROOT, capture_output=True, text=True
  )


def run_forked(code: str, *args: object) -> Done:
  """Runs code that needs no Python process of its own; see `start`."""
  if sys.platform != 'linux':
    return run('-c', code, *args)
  process = _server().start('-c', code, *map(str, args))
  out, err = process.communicate()
  return Done(process.args, process.returncode, out, err)


def succeed(program: str, *args: object, **env: str) -> str:
  """Runs a program that must succeed; returns its stdout."""
  done = run(program, *args, **env)
  assert done.returncode == 0, done.stderr
  return done.stdout


def prepare_reference(output: pathlib.Path, *options: str) -> pathlib.Path:
  """Prepares the Python Language Reference; returns the output."""
  source = '--input=builtin:python-reference'
  succeed('prepare', source, f'--output={output}', *options)
  return output


def fail(program: str, *args: object, code: int = 2) -> str:
  """Runs a program that must fail; returns its one line of error."""
  return error_of(run(program, *args), code)


def error_of(done: Done, code: int = 2) -> str:
  """Returns the one line of error of a program that failed.

  Args:
    done: the program.
    code: its exit code: 2 for what the user gave, 1 for what happened.
  """
  assert done.returncode == code, done.stderr
  assert 'Traceback' not in done.stderr
  lines = [x for x in done.stderr.splitlines() if x.startswith('error:')]
  assert len(lines) == 1, done.stderr
  return lines[0]


def await_until(
  process: subprocess.Popen[str], is_ready: Callable[[], object]
) -> None:
  """Waits for what a process does, which must not end before."""
  deadline = time.monotonic() + 400
  while not is_ready():
    assert process.poll() is None, process.returncode
    assert time.monotonic() < deadline
    time.sleep(0.01)


def is_alive(pid: int) -> bool:
  """Returns whether a process still runs, on Linux."""
  try:
    text = pathlib.Path(f'/proc/{pid}/stat').read_text()
  except OSError:
    return False
  return text.rpartition(')')[2].split()[0] != 'Z'


@contextlib.contextmanager
def ending(process: subprocess.Popen[str]) -> Iterator[subprocess.Popen[str]]:
  """Ends a process that still runs when the context is left: Ctrl-C, twice.

  A job of several processes passes that on to each. A process left by a test
  that fails would make a later test fail too.
  """
  try:
    yield process
  finally:
    for _ in range(2):
      if process.poll() is None:
        process.send_signal(signal.SIGINT)
        time.sleep(0.3)
    try:
      process.wait(timeout=20)
    except subprocess.TimeoutExpired:
      process.kill()
    with process:  # closes its pipes
      pass


@contextlib.contextmanager
def serving(
  workdir: pathlib.Path, end: signal.Signals = signal.SIGINT
) -> Iterator[str]:
  """Yields the address of a server of a run; ends it with a signal."""
  server = start('serve', f'--workdir={workdir}', '--port=0')
  with server as process, ending(process):
    try:
      lines = [process.stdout.readline() for _ in range(2)]
      yield re.search(r'http://127.0.0.1:\d+', lines[1])[0]
    finally:
      process.send_signal(end)
      _, stderr = process.communicate(timeout=30)
  assert process.returncode == 0, stderr
  assert 'Traceback' not in stderr
