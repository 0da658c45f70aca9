"""Runs jobs of several hosts as processes on this machine, with Gloo."""

import os
import pathlib
import subprocess
import sys

import pytest

from tests import QUICKLY_COMPILED
from tests.support import commands

STEPS = 24
TINY = (
  '--config=configs/pretrain.py:tiny',
  '--config.init_from=neighbours',
  '--config.model.n_layer=1',
  '--config.model.n_embd=64',
  '--config.model.n_ctx=32',
  '--config.data.batch_size=8',
  f'--config.train.num_steps={STEPS}',
  '--config.train.eval_every=12',
  '--config.train.checkpoint_every=4',
  '--config.train.log_every=1',
  # As in tests/support/updates.py: no weight moves by a rounding error.
  '--config.optim.eps=1e-2',
)


def prepare(folder: pathlib.Path) -> pathlib.Path:
  """Prepares data for TINY; returns `folder`."""
  return commands.prepare_reference(
    folder, '--merges=300', '--validation_fraction=0.02'
  )


def environment(**more: str) -> dict[str, str]:
  """Returns an environment without variables of JAX, except for `more`."""
  clean = {k: v for k, v in os.environ.items() if not k.startswith('JAX_')}
  return {
    **clean,
    'XLA_FLAGS': QUICKLY_COMPILED,
    'JAX_PLATFORMS': 'cpu',
    'PYTHONPATH': str(commands.ROOT),
    **more,
  }


def start(
  processes: int, devices: int, *words: object, grace: int = 2
) -> subprocess.Popen[str]:
  """Starts Python on `processes` hosts of `devices` each.

  Args:
    processes: number of hosts.
    devices: number of devices of each.
    *words: arguments of Python.
    grace: seconds that the launcher leaves to the others when a host ends.
  """
  return subprocess.Popen(
    [
      sys.executable,
      'launch/local_cluster.py',
      f'--processes={processes}',
      f'--devices_per_process={devices}',
      f'--grace={grace}',
      '--',
      sys.executable,
      *map(str, words),
    ],
    cwd=commands.ROOT,
    env=environment(),
    text=True,
    stdout=subprocess.PIPE,
    stderr=subprocess.STDOUT,
  )


def run(processes: int, devices: int, *words: object) -> str:
  """Runs a job that must succeed; returns its output. See `start`."""
  with commands.ending(start(processes, devices, *words)) as job:
    output = job.communicate(timeout=300)[0]
  assert job.returncode == 0, output
  return output


def process_id(job: subprocess.Popen[str], index: int) -> int:
  """Returns the process id of one host of a job."""
  children = pathlib.Path(f'/proc/{job.pid}/task/{job.pid}/children')
  if not children.exists():
    pytest.skip('needs /proc to find the children of a process')
  return int(children.read_text().split()[index])
