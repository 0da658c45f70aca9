"""Several processes as one machine: `jax.distributed` behind a flag.

A TPU pod, a Slurm job or any cluster runs the same command on every host; here
the hosts find each other, before anything is computed.
"""

import contextlib
import importlib.util
import os
import sys
import threading
from collections.abc import Iterator, Mapping
from typing import Any

import jax
from absl import flags

from gpt1_jax.errors import UserError
from gpt1_jax.train import heartbeat

MULTIHOST = flags.DEFINE_enum(
  'multihost',
  'auto',
  ['auto', 'on', 'off'],
  'Whether this process is one of several hosts. auto: where the environment '
  'says so (JAX_NUM_PROCESSES, srun, mpirun, a TPU machine).',
)
COORDINATOR_TIMEOUT = flags.DEFINE_integer(
  'coordinator_timeout',
  300,
  'Seconds to wait for the other hosts at the start.',
  lower_bound=1,
)
HEARTBEAT_TIMEOUT = flags.DEFINE_integer(
  'heartbeat_timeout',
  100,
  'Seconds without a sign of life after which a host is lost: the job ends.',
  lower_bound=1,
)

# Clusters of any kind are told by these; launch/local_cluster.py sets them.
ADDRESS = 'JAX_COORDINATOR_ADDRESS'
COUNT, INDEX = 'JAX_NUM_PROCESSES', 'JAX_PROCESS_ID'


@contextlib.contextmanager
def connected() -> Iterator[None]:
  """Joins the other hosts, if the flags and the environment say so.

  Raises:
    UserError: the environment does not say who they are, or one of them was
      lost on the way.
    SystemExit: some are missing after --coordinator_timeout, or one is silent
      for --heartbeat_timeout.
  """
  mode = MULTIHOST.value
  count = num_hosts(os.environ)
  if mode == 'off' or (mode == 'auto' and count == 1):
    yield
    return
  _join(count)
  try:
    with _heartbeat():
      yield
  except jax.errors.JaxRuntimeError as error:
    if jax.process_count() == 1:
      raise
    raise UserError(
      f'host {jax.process_index()} of {jax.process_count()} stops '
      f'({str(error).splitlines()[0]}): was another one lost? The last '
      'checkpoint is intact, the same command on all hosts goes on from it'
    ) from error


def num_hosts(environment: Mapping[str, str]) -> int | None:
  """Processes of the job; None: a TPU machine, whose runtime will tell.

  Raises:
    UserError: a variable is not a number.
  """
  if COUNT in environment:
    return _number(environment, COUNT)
  # srun sets the list of nodes of a step; sbatch and salloc do not.
  if 'SLURM_STEP_NODELIST' in environment and 'SLURM_NTASKS' in environment:
    return _number(environment, 'SLURM_NTASKS')
  if 'OMPI_COMM_WORLD_SIZE' in environment:
    return _number(environment, 'OMPI_COMM_WORLD_SIZE')
  # Importing jax sets this one where there is no TPU.
  if 'TPU_SKIP_MDS_QUERY' in environment:
    return 1
  return None if importlib.util.find_spec('libtpu') else 1


def explicit(environment: Mapping[str, str]) -> dict[str, Any]:
  """Arguments of `jax.distributed.initialize` that the environment spells out.

  Returns:
    None of them, where JAX finds them by itself (TPU, Slurm, Open MPI).

  Raises:
    UserError: some are there and others are not, or they do not fit.
  """
  there = [name for name in (COUNT, INDEX) if name in environment]
  if not there:
    return {}
  for name in (ADDRESS, COUNT, INDEX):
    if name not in environment:
      raise UserError(
        f'{there[0]} is set and {name} is not: a cluster is told by '
        f'{ADDRESS} (HOST:PORT of process 0), {COUNT} and {INDEX}'
      )
  count, index = _number(environment, COUNT), _number(environment, INDEX)
  if index >= count:
    raise UserError(f'{INDEX} is {index}: from 0 to {count - 1}, by {COUNT}')
  return {
    'coordinator_address': environment[ADDRESS],
    'num_processes': count,
    'process_id': index,
  }


def _join(count: int | None) -> None:
  """`jax.distributed.initialize`, which would wait in silence and then abort.

  Raises:
    UserError: the environment does not say who the hosts are.
  """
  known = explicit(os.environ)
  # Of hosts without accelerators; on others nothing uses it.
  jax.config.update('jax_cpu_collectives_implementation', 'gloo')
  seconds = COORDINATOR_TIMEOUT.value
  # JAX's own end of waiting is an abort with a stack of C++.
  clock = threading.Timer(seconds, _give_up, (known, count, seconds))
  clock.daemon = True
  clock.start()
  try:
    jax.distributed.initialize(
      **known,
      initialization_timeout=seconds + 60,
      # After `_heartbeat`, which says it in a line.
      heartbeat_timeout_seconds=HEARTBEAT_TIMEOUT.value + 60,
      shutdown_timeout_seconds=HEARTBEAT_TIMEOUT.value,
    )
  except (ValueError, RuntimeError) as error:
    raise UserError(
      f'cannot join other hosts ({str(error).splitlines()[0]}): start the '
      f'command on each with srun or mpirun, on all workers of a TPU, or with '
      f'{ADDRESS}, {COUNT} and {INDEX} set; --multihost=off runs on this one '
      'alone'
    ) from error
  finally:
    clock.cancel()


def _heartbeat() -> contextlib.AbstractContextManager[None]:
  """`heartbeat.kept` among the hosts of this job."""
  # JAX shows its key-value store nowhere else; Orbax takes it from here too.
  from jax._src import distributed

  job = distributed.global_state
  return heartbeat.kept(
    job.client, job.process_id, job.num_processes, HEARTBEAT_TIMEOUT.value
  )


def _give_up(known: dict[str, Any], count: int | None, seconds: int) -> None:
  """Ends the process: one line, and no waiting for what will not come."""
  hosts = f'all {count} hosts' if count else 'all hosts of the slice'
  where = ''
  if known:
    where = f' at {known["coordinator_address"]}'
    hosts += f' (this is {known["process_id"]})'
  print(
    f'error: {hosts} did not meet{where} within {seconds} s: is the command '
    'running on every one, and does the network let them reach process 0? '
    '--coordinator_timeout waits longer, --multihost=off runs on this alone',
    file=sys.stderr,
    flush=True,
  )
  os._exit(1)


def _number(environment: Mapping[str, str], name: str) -> int:
  try:
    return int(environment[name])
  except ValueError:
    raise UserError(f'{name} is {environment[name]!r}: a number') from None
