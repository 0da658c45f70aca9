r"""Runs a command in several processes on this machine, like a small TPU pod.

  python launch/local_cluster.py --processes=4 --devices_per_process=2 -- \
      python -m gpt1_jax.pretrain --config=configs/pretrain.py:tiny ...

Each process has its own CPU devices; collectives use Gloo. Every output line
starts with its process number. If a process fails, the others are terminated.
SIGTERM and Ctrl-C are passed on; exit code 75 says that the run was saved. On
Linux, all processes also receive SIGTERM if this one is killed.
"""

import ctypes
import os
import re
import signal
import socket
import subprocess
import sys
import threading
import time
from collections.abc import Sequence

from absl import app, flags

_PROCESSES = flags.DEFINE_integer(
  'processes', 2, 'Number of processes; each acts as a host.', lower_bound=1
)
_DEVICES = flags.DEFINE_integer(
  'devices_per_process', 1, 'CPU devices per process.', lower_bound=1
)
_GRACE = flags.DEFINE_float(
  'grace', 2.0, 'Seconds from a failure to SIGTERM, and then to SIGKILL.', 0.0
)

# Exit codes of a run:
MISTAKE = 2  # of the user, whose command has to change
STOPPED = 75  # stopped by a signal, saved
_SET_DEATH_SIGNAL = 1  # prctl(2)
_SAVING = 10.0  # seconds in which all processes should save

_printing = threading.Lock()
_FLAG = '--xla_force_host_platform_device_count'


def main(argv: list[str]) -> None:
  """Runs the command after -- and exits with 0, 1 or 75."""
  if len(argv) < 2:
    _say('give a command after --: ... -- python -m gpt1_jax.pretrain ...')
    sys.exit(1)
  sys.exit(run(argv[1:], _PROCESSES.value, _DEVICES.value, _GRACE.value))


def run(
  words: Sequence[str], processes: int, devices: int, grace: float
) -> int:
  """Runs a command in several processes; returns 1 if one of them failed.

  Args:
    words: the command.
    processes, devices, grace: see the flags.
  """
  port = _free_port()
  running: list[subprocess.Popen[bytes]] = []
  for index in range(processes):
    try:
      process = subprocess.Popen(
        words,
        env=_environment(index, processes, devices, port),
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        start_new_session=True,
        preexec_fn=_stop_with_launcher,
      )
    except OSError:
      _end(running, grace)
      raise
    running.append(process)
  readers = [
    threading.Thread(target=_copy, args=(index, process), daemon=True)
    for index, process in enumerate(running)
  ]
  for reader in readers:
    reader.start()
  _pass_signals_on(running)
  try:
    failed = _first_failure(running)
    if failed is not None and running[failed].returncode == STOPPED:
      _wait(running, max(grace, _SAVING))
    elif failed is not None:
      line = f'process {failed} of {processes} {_ending(running[failed])}: '
      line += 'stopping the others'
      if running[failed].returncode != MISTAKE:
        line += '; the same command resumes from the last checkpoint'
      _say(line)
      _wait(running, grace)
  finally:
    _end(running, grace)
  for reader in readers:
    reader.join(grace)
  if failed is None:
    return 0
  codes = {process.returncode for process in running}
  return STOPPED if codes <= {0, STOPPED} else 1


def _stop_with_launcher() -> None:
  """Makes the kernel send SIGTERM to this process once its parent has died."""
  if sys.platform == 'linux':
    ctypes.CDLL(None).prctl(_SET_DEATH_SIGNAL, signal.SIGTERM, 0, 0, 0)


def _pass_signals_on(running: list[subprocess.Popen[bytes]]) -> None:
  """Sends SIGTERM and SIGINT to every process; a second SIGINT kills them."""
  interrupted = False

  def send(number: int, frame: object) -> None:
    nonlocal interrupted
    del frame
    for process in running:
      if process.poll() is None:
        process.send_signal(signal.SIGKILL if interrupted else number)
    interrupted = interrupted or number == signal.SIGINT

  for number in (signal.SIGTERM, signal.SIGINT):
    signal.signal(number, send)


def _environment(
  index: int, processes: int, devices: int, port: int
) -> dict[str, str]:
  """Returns the environment that describes the job to jax.distributed."""
  other = re.sub(rf'{_FLAG}=\d+', '', os.environ.get('XLA_FLAGS', ''))
  return {
    **os.environ,
    'JAX_PLATFORMS': 'cpu',
    'JAX_COORDINATOR_ADDRESS': f'127.0.0.1:{port}',
    'JAX_NUM_PROCESSES': str(processes),
    'JAX_PROCESS_ID': str(index),
    'XLA_FLAGS': f'{other} {_FLAG}={devices}'.strip(),
    'PYTHONUNBUFFERED': '1',
  }


def _free_port() -> int:
  with socket.socket() as listener:
    listener.bind(('127.0.0.1', 0))
    return int(listener.getsockname()[1])


def _copy(index: int, process: subprocess.Popen[bytes]) -> None:
  """Prints a process's output with its number before each line."""
  assert process.stdout
  for line in process.stdout:
    text = line.decode(errors='replace').rstrip('\n')
    with _printing:  # two threads would mix their lines
      print(f'[{index}] {text}', flush=True)


def _first_failure(running: list[subprocess.Popen[bytes]]) -> int | None:
  """Waits for the processes; returns the first to fail, or None.

  If several have failed, prefers one that a signal killed: the others failed
  because they lost it.
  """
  while True:
    codes = [process.poll() for process in running]
    failed = [(code > 0, index) for index, code in enumerate(codes) if code]
    if failed:
      return min(failed)[1]
    if None not in codes:
      return None
    time.sleep(0.05)


def _ending(process: subprocess.Popen[bytes]) -> str:
  code = process.returncode
  if code < 0:
    return f'was killed by {signal.Signals(-code).name}'
  return f'ended with exit code {code}'


def _wait(running: list[subprocess.Popen[bytes]], seconds: float) -> None:
  deadline = time.monotonic() + seconds
  while time.monotonic() < deadline:
    if all(process.poll() is not None for process in running):
      return
    time.sleep(0.05)


def _end(running: list[subprocess.Popen[bytes]], grace: float) -> None:
  """Sends SIGTERM, then SIGKILL, to processes that are still running."""
  for signal_ in (signal.SIGTERM, signal.SIGKILL):
    for process in running:
      if process.poll() is None:
        process.send_signal(signal_)
    _wait(running, grace)


def _say(message: str) -> None:
  print(f'error: {message}', file=sys.stderr, flush=True)


if __name__ == '__main__':
  app.run(main)
