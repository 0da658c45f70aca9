"""Tests how hosts find each other, and launch/local_cluster.py's reports."""

import socket
import subprocess
import sys
import time

import pytest

from gpt1_jax.errors import UserError
from gpt1_jax.train import hosts
from tests.support import commands, host_jobs

NO_TPU = {'TPU_SKIP_MDS_QUERY': '1'}  # jax sets it where there is no TPU
SLURM = {'SLURM_NTASKS': '8', 'SLURM_JOB_ID': '1', 'SLURM_PROCID': '0'}


@pytest.mark.parametrize(
  ('variables', 'count'),
  [
    ({}, 1),
    ({'JAX_NUM_PROCESSES': '4'}, 4),
    (SLURM, 1),  # sbatch: nothing was started yet
    (SLURM | {'SLURM_STEP_NODELIST': 'n[1-8]'}, 8),
    ({'OMPI_COMM_WORLD_SIZE': '2'}, 2),
  ],
)
def test_the_environment_tells_the_number_of_hosts(variables, count):
  assert hosts.num_hosts(NO_TPU | variables) == count


def test_a_count_must_be_a_number():
  with pytest.raises(UserError, match="JAX_NUM_PROCESSES is 'x': it must be a"):
    hosts.num_hosts({'JAX_NUM_PROCESSES': 'x'})


def test_three_variables_describe_a_cluster():
  three = {
    'JAX_COORDINATOR_ADDRESS': 'host:1234',
    'JAX_NUM_PROCESSES': '2',
    'JAX_PROCESS_ID': '1',
  }
  assert hosts.cluster_address({}) == {}
  assert hosts.cluster_address(three) == {
    'coordinator_address': 'host:1234',
    'num_processes': 2,
    'process_id': 1,
  }
  for name in ('JAX_COORDINATOR_ADDRESS', 'JAX_PROCESS_ID'):
    some = {k: v for k, v in three.items() if k != name}
    with pytest.raises(UserError, match=f'is set but {name} is not'):
      hosts.cluster_address(some)
  with pytest.raises(UserError, match='JAX_PROCESS_ID is 2: it must be from 0'):
    hosts.cluster_address(three | {'JAX_PROCESS_ID': '2'})
  for address in ('host', 'host:', 'host:port', ':1234'):
    with pytest.raises(UserError, match='it must be HOST:PORT'):
      hosts.cluster_address(three | {'JAX_COORDINATOR_ADDRESS': address})


def test_missing_hosts_are_reported_in_time(tmp_path):
  with socket.socket() as listener:
    listener.bind(('127.0.0.1', 0))
    port = listener.getsockname()[1]
  for index in ('0', '1'):
    done = subprocess.run(
      [
        sys.executable,
        '-m',
        'gpt1_jax.evaluate',
        f'--workdir={tmp_path}',
        '--coordinator_timeout=1',
      ],
      cwd=commands.ROOT,
      env=host_jobs.environment(
        JAX_COORDINATOR_ADDRESS=f'127.0.0.1:{port}',
        JAX_NUM_PROCESSES='3',
        JAX_PROCESS_ID=index,
      ),
      text=True,
      capture_output=True,
      timeout=60,
      check=False,
    )
    assert done.returncode == 1
    lines = [x for x in done.stderr.splitlines() if x]
    assert len(lines) == 1, done.stderr
    assert f'all 3 hosts (this is {index}) did not meet at 127' in lines[0]
    assert 'within 1 s' in lines[0]


@pytest.mark.parametrize(('code', 'resumes'), [(1, True), (2, False)])
def test_the_launcher_offers_to_resume_but_after_a_mistake(code, resumes):
  """A mistake of the user stays one with the same command."""
  output, _ = host_jobs.start(
    2, 1, '-c', f'import sys; sys.exit({code})'
  ).communicate(timeout=60)
  assert f'of 2 ended with exit code {code}: stopping the others' in output
  assert ('the same command resumes' in output) == resumes


@pytest.mark.parametrize(
  ('code', 'message'),
  [
    ('import sys; sys.exit(3)', 'process 0 of 1 ended with exit code 3'),
    ('import os; os.kill(os.getpid(), 9)', 'process 0 of 1 was killed by SIG'),
  ],
)
def test_the_launcher_reports_how_a_process_ended(code, message, ended):
  job = ended(host_jobs.start(1, 1, '-c', code))
  assert message in job.communicate(timeout=60)[0]
  assert job.returncode == 1


@pytest.mark.skipif(sys.platform != 'linux', reason='Linux alone ends them')
def test_processes_stop_with_a_killed_launcher():
  code = 'import os, time; print(os.getpid()); time.sleep(60)'
  with host_jobs.start(2, 1, '-c', code) as job:
    found = [int(job.stdout.readline().split()[1]) for _ in range(2)]
    job.kill()
    deadline = time.monotonic() + 20
    while any(map(commands.is_alive, found)) and time.monotonic() < deadline:
      time.sleep(0.05)
    assert not any(map(commands.is_alive, found))
