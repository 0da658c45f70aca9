"""Joins a job's processes on several hosts into one JAX program.

On a TPU pod, in a Slurm job or on any other cluster, the same command runs on
every host. This module connects the hosts before any computation starts.
"""

import contextlib
import dataclasses
import hashlib
import importlib.util
import itertools
import json
import os
import re
import sys
import threading
from collections.abc import Iterator, Mapping
from typing import Any, TypedDict

import jax
import numpy as np
from jax.experimental import multihost_utils
from orbax.checkpoint import multihost

from gpt1_jax import interrupts
from gpt1_jax.errors import RunError, UserError, describe, first_line
from gpt1_jax.train import heartbeat

# Variables for clusters that JAX does not detect; launch/local_cluster.py sets
# them.
ADDRESS = 'JAX_COORDINATOR_ADDRESS'
# Errors that collectives and JAX's service raise when another host is gone.
_LOST = re.compile(
  r'(?i)gloo|nccl|by peer|unavailable|deadline.exceeded|coordination|heartbeat'
)
COUNT, INDEX = 'JAX_NUM_PROCESSES', 'JAX_PROCESS_ID'
# Milliseconds, a week; `heartbeat.watched` ends the wait for a lost host.
_PATIENCE = 7 * 24 * 3600 * 1000
_meetings = itertools.count(1)


@dataclasses.dataclass(frozen=True)
class HostSettings:
  """Settings that find the other hosts and bound the wait for them.

  Attributes:
    multihost: 'on', 'off', or 'auto': 'on' if the environment describes a
      cluster.
    coordinator_timeout: seconds to wait at startup for the other hosts.
    heartbeat_timeout: seconds without a response after which a host counts as
      lost.
  """

  multihost: str
  coordinator_timeout: int
  heartbeat_timeout: int


class ClusterAddress(TypedDict, total=False):
  """Arguments of `jax.distributed.initialize`."""

  coordinator_address: str
  num_processes: int
  process_id: int


@contextlib.contextmanager
def connected(settings: HostSettings) -> Iterator[None]:
  """Joins the other hosts if the settings and the environment call for it.

  Raises:
    UserError: the environment describes no cluster.
    SystemExit: a host was lost, did not join within `coordinator_timeout`, or
      did not respond for `heartbeat_timeout`.
  """
  count = num_hosts(os.environ)
  if settings.multihost == 'off' or (
    settings.multihost == 'auto' and count == 1
  ):
    yield
    return
  with interrupts.within(interrupts.Phase.EXIT):  # no run has been started
    _join(settings, count)
  interrupts.relay()
  try:
    if jax.process_count() == 1:
      yield
      return
    with heartbeat.watched(settings.heartbeat_timeout):
      yield
  except (UserError, OSError) as error:
    if jax.process_count() > 1:
      heartbeat.tell(*describe(error))
    raise
  except (RuntimeError, ValueError) as error:  # XLA raises both
    if jax.process_count() == 1 or not _LOST.search(str(error)):
      raise
    heartbeat.end(
      f'another host was lost; host {jax.process_index()} stops '
      f'({first_line(error)[:200]})'
    )


def say(line: str) -> None:
  """Prints a line to stderr on the first host."""
  if jax.process_index() == 0:
    print(line, file=sys.stderr, flush=True)


def meet(moment: str) -> None:
  """Waits until every host has reached this moment.

  Does not use the devices: Gloo fails if a host is 30 s late for the first
  collective.
  """
  if jax.process_count() > 1:
    barrier = multihost.get_barrier_sync_fn()
    barrier(key=f'gpt1_jax {next(_meetings)} {moment}', timeout_ms=_PATIENCE)


def agree(found: Mapping[str, object]) -> None:
  """Waits for every host, and checks that all have found the same.

  Args:
    found: by name, trees of arrays and of other values, which are compared by
      their `repr`.

  Raises:
    UserError: a host has found something else; raised on all hosts.
  """
  count, index = jax.process_count(), jax.process_index()
  if count == 1:
    return
  mine = {name: _digest(value) for name, value in found.items()}
  service = multihost.get_jax_distributed_client()
  key = f'gpt1_jax agreement {next(_meetings)}'
  service.key_value_set(f'{key}/{index}', json.dumps(mine))
  if index == 0:
    texts = (
      service.blocking_key_value_get(f'{key}/{host}', _PATIENCE)
      for host in range(count)
    )
    service.key_value_set(f'{key}/result', _difference(map(json.loads, texts)))
  if difference := service.blocking_key_value_get(f'{key}/result', _PATIENCE):
    raise UserError(
      f'{difference}; every host needs the same command and the same files'
    )


def _difference(found: Iterator[dict[str, str]]) -> str:
  """Names the first host that has not found what host 0 has found, or ''."""
  first = next(found)
  for host, other in enumerate(found, 1):
    for name in {**first, **other}:
      if first.get(name) != other.get(name):
        return f"host {host}: its {name} differs from host 0's"
  return ''


def _digest(tree: object) -> str:
  """Returns the sha256 of a tree's structure and leaves, hex."""
  digest = hashlib.sha256(repr(jax.tree.structure(tree)).encode())
  for leaf in jax.tree.leaves(tree):
    is_array = isinstance(leaf, np.ndarray | jax.Array)
    digest.update(
      np.asarray(leaf).tobytes() if is_array else f'{leaf!r}\n'.encode()
    )
  return digest.hexdigest()


def from_first(value: Any) -> Any:
  """Returns the first host's value, a numpy array or scalar, on every host."""
  if jax.process_count() == 1:
    return value
  return multihost_utils.broadcast_one_to_all(value)


def num_hosts(environment: Mapping[str, str]) -> int | None:
  """Returns the number of processes; None on a TPU, whose runtime knows it.

  Raises:
    UserError: an environment variable is not a number.
  """
  if COUNT in environment:
    return _number(environment, COUNT)
  # srun sets a step's node list; sbatch and salloc do not.
  if 'SLURM_STEP_NODELIST' in environment and 'SLURM_NTASKS' in environment:
    return _number(environment, 'SLURM_NTASKS')
  if 'OMPI_COMM_WORLD_SIZE' in environment:
    return _number(environment, 'OMPI_COMM_WORLD_SIZE')
  # Importing jax sets this variable on machines without a TPU.
  if 'TPU_SKIP_MDS_QUERY' in environment:
    return 1
  return None if importlib.util.find_spec('libtpu') else 1


def cluster_address(environment: Mapping[str, str]) -> ClusterAddress:
  """Reads the variables ADDRESS, COUNT and INDEX.

  Returns:
    An empty dict if none is set: JAX detects TPU, Slurm and Open MPI itself.

  Raises:
    UserError: only some of them are set, or they are inconsistent.
  """
  present = [name for name in (COUNT, INDEX) if name in environment]
  if not present:
    return {}
  for name in (ADDRESS, COUNT, INDEX):
    if name not in environment:
      raise UserError(
        f'{present[0]} is set but {name} is not: a cluster needs {ADDRESS} '
        f'(HOST:PORT of process 0), {COUNT} and {INDEX}'
      )
  count, index = _number(environment, COUNT), _number(environment, INDEX)
  if index >= count:
    raise UserError(
      f'{INDEX} is {index}: it must be from 0 to {count - 1} ({COUNT} is '
      f'{count})'
    )
  if not re.fullmatch(r'.+:\d{1,5}', environment[ADDRESS]):
    raise UserError(
      f'{ADDRESS} is {environment[ADDRESS]!r}: it must be HOST:PORT, the '
      'address of process 0 and a free port there, such as 10.0.0.1:8476'
    )
  return {
    'coordinator_address': environment[ADDRESS],
    'num_processes': count,
    'process_id': index,
  }


def _join(settings: HostSettings, count: int | None) -> None:
  """Calls `jax.distributed.initialize`; reports missing hosts in one line.

  Raises:
    UserError: the environment describes no cluster.
  """
  address = cluster_address(os.environ)
  heartbeat.report_losses()
  # Only hosts without accelerators use this.
  jax.config.update('jax_cpu_collectives_implementation', 'gloo')
  seconds = settings.coordinator_timeout
  # JAX itself would wait silently and then abort with a C++ stack trace.
  timer = threading.Timer(seconds, _end_waiting, (address, count, seconds))
  timer.daemon = True
  timer.start()
  try:
    jax.distributed.initialize(
      **address,
      initialization_timeout=seconds + 60,
      # Longer than our own heartbeat, whose error names the host.
      heartbeat_timeout_seconds=settings.heartbeat_timeout + 60,
      shutdown_timeout_seconds=settings.heartbeat_timeout,
    )
  except (ValueError, RuntimeError) as error:
    raise RunError(
      f'cannot join other hosts ({first_line(error)}): start the '
      'command on every host with srun or mpirun, on all workers of a TPU, or '
      f'with {ADDRESS}, {COUNT} and {INDEX} set; --multihost=off runs on this '
      'host alone'
    ) from error
  finally:
    timer.cancel()


def _end_waiting(
  address: ClusterAddress, count: int | None, seconds: int
) -> None:
  """Ends the process with one line: some hosts did not join in time."""
  hosts = f'all {count} hosts' if count else 'all hosts of the slice'
  where = ''
  if address:
    where = f' at {address["coordinator_address"]}'
    hosts += f' (this is {address["process_id"]})'
  print(
    f'error: {hosts} did not meet{where} within {seconds} s: is the command '
    'running on every host, and can they reach process 0? '
    '--coordinator_timeout waits longer, --multihost=off runs on this host '
    'alone',
    file=sys.stderr,
    flush=True,
  )
  os._exit(1)


def _number(environment: Mapping[str, str], name: str) -> int:
  try:
    return int(environment[name])
  except ValueError:
    raise UserError(
      f'{name} is {environment[name]!r}: it must be a number'
    ) from None
