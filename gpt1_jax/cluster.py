"""Defines the flags of commands that run on several hosts, and joins the hosts.

`train.hosts` does the work.
"""

import contextlib
from collections.abc import Iterator

from absl import flags

from gpt1_jax import cli, interrupts

_MULTIHOST = flags.DEFINE_enum(
  'multihost',
  'auto',
  ['auto', 'on', 'off'],
  'Join the other hosts; auto joins if the environment describes a cluster '
  '(JAX_NUM_PROCESSES, srun, mpirun, a TPU machine).',
)
_COORDINATOR_TIMEOUT = flags.DEFINE_integer(
  'coordinator_timeout',
  300,
  'Seconds to wait at startup for the other hosts.',
  lower_bound=1,
)
_HEARTBEAT_TIMEOUT = flags.DEFINE_integer(
  'heartbeat_timeout',
  100,
  'Seconds without a heartbeat after which a host counts as lost and the job '
  'ends.',
  lower_bound=1,
)


# Flags that may differ between hosts.
_OWN = {
  *(x.name for x in (_MULTIHOST, _COORDINATOR_TIMEOUT, _HEARTBEAT_TIMEOUT)),
  *('stage_to', 'executable'),
}


@contextlib.contextmanager
def connected() -> Iterator[None]:
  """Joins the other hosts of the job; see `hosts.connected`.

  Raises:
    UserError: a host was started with other flags.
  """
  with interrupts.importing():
    from gpt1_jax.train import hosts  # slow: imports jax

  settings = hosts.HostSettings(
    _MULTIHOST.value, _COORDINATOR_TIMEOUT.value, _HEARTBEAT_TIMEOUT.value
  )
  with hosts.connected(settings):
    hosts.agree(
      {f'--{name}': x for name, x in cli.given().items() if name not in _OWN}
    )
    yield
