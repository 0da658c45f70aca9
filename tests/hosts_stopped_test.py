"""Hosts that are late, hang, are signalled or die: all stop together."""

import os
import re
import signal
import time

import pytest

from gpt1_jax.train import checkpoint
from tests.support import commands, host_jobs

MEETS = """
import sys, time
from gpt1_jax import cli, cluster
import jax
from jax.experimental import multihost_utils

def main():
  with cluster.connected():
    for i in range({rounds}):
      multihost_utils.process_allgather(jax.numpy.ones(3))
      if i == 20:
        print('all have met', flush=True)
      time.sleep(0.05)
    if jax.process_index() == 1:
      time.sleep({late})
cli.run(main)
"""


def await_meeting(job):
  """Reads the output until each of three hosts says that all have met."""
  output = ''
  while output.count('all have met') < 3:
    line = job.stdout.readline()
    assert line, f'the job ended: {output}'
    output += line


@pytest.fixture(scope='module')
def data(tmp_path_factory):
  return host_jobs.prepare(tmp_path_factory.mktemp('data') / 'reference')


@pytest.mark.slow
def test_a_host_that_begins_late_is_waited_for():
  """Gloo's first collective waits for 30 s."""
  code = (
    'import time, jax\n'
    'from gpt1_jax import cli, cluster\n'
    'from gpt1_jax.train import hosts\n'
    'from jax.experimental import multihost_utils as utils\n'
    'def main():\n'
    '  with cluster.connected():\n'
    '    time.sleep(35 * jax.process_index())\n'
    '    hosts.agree({})\n'
    '    print(utils.process_allgather(jax.numpy.ones(3)).sum())\n'
    'cli.run(main)'
  )
  assert host_jobs.run(2, 1, '-c', code).count('6.0') == 2


@pytest.mark.slow
def test_a_host_that_finishes_late_is_waited_for():
  code = MEETS.format(rounds=21, late=15)
  output = host_jobs.run(3, 1, '-c', code, '--heartbeat_timeout=10')
  # Threads of Gloo mix their lines, which may leave empty ones.
  lines = [x for x in output.splitlines() if x[4:] and 'Gloo' not in x]
  assert sorted(lines) == [f'[{i}] all have met' for i in range(3)]


@pytest.mark.slow
@pytest.mark.parametrize('index', [0, 1])
def test_a_hanging_host_ends_the_job(index, ended):
  seconds = 12
  code = MEETS.format(rounds=10_000, late=0)
  words = ('-c', code, f'--heartbeat_timeout={seconds}')
  job = ended(host_jobs.start(3, 1, *words))
  await_meeting(job)
  os.kill(host_jobs.process_id(job, index), signal.SIGSTOP)
  stopped = time.monotonic()
  output = job.communicate(timeout=200)[0]
  assert time.monotonic() - stopped < 3 * seconds
  assert job.returncode == 1
  assert (
    f'error: host {index} of 3 has not responded for {seconds} s'
  ) in output
  for words in ('Traceback', 'stack trace', 'Fatal Python error'):
    assert words not in output


@pytest.mark.slow
@pytest.mark.parametrize('index', [0, 1])
def test_the_death_of_a_host_is_one_line_on_the_others(index, ended):
  code = MEETS.format(rounds=10_000, late=0)
  words = ('-c', code, '--heartbeat_timeout=60')
  job = ended(host_jobs.start(3, 1, *words, grace=120))
  await_meeting(job)
  os.kill(host_jobs.process_id(job, index), signal.SIGKILL)
  output = job.communicate(timeout=300)[0]
  for other in {0, 1, 2} - {index}:
    said = [x for x in output.splitlines() if x.startswith(f'[{other}] ')]
    (line,) = [x for x in said if not x.startswith(f'[{other}] [Gloo]')]
    assert f'[{other}] error: ' in line
    assert 'was lost' in line or 'has not responded' in line


@pytest.mark.slow
def test_a_signal_to_one_host_stops_all_after_the_same_update(
  data, tmp_path, ended
):
  workdir = tmp_path / 'run'
  words = ('-m', 'gpt1_jax.pretrain', *host_jobs.TINY, f'--workdir={workdir}')
  endless = ('--config.train.num_steps=100000', f'--config.data.path={data}')
  job = ended(host_jobs.start(2, 1, *words, *endless))
  commands.await_until(job, (workdir / 'checkpoints' / '4').is_dir)
  os.kill(host_jobs.process_id(job, 1), signal.SIGTERM)
  output = job.communicate(timeout=500)[0]
  assert job.returncode == 75, output
  assert 'Traceback' not in output
  done = re.findall(r'after update (\d+), which is saved', output)
  assert len(done) == 2
  assert checkpoint.steps(str(workdir))[-1] == int(done[0]) == int(done[1])


# Host 1 never gets the batch of update 6, as if its file system hung.
STALLS = """
import os, runpy, sys, time
from gpt1_jax.corpus import windows
plain = windows.Windows.batch
def batch(self, step):
  if step == 5 and os.environ['JAX_PROCESS_ID'] == '1':
    time.sleep(1000)
  return plain(self, step)
windows.Windows.batch = batch
sys.argv[0] = 'pretrain'
runpy.run_module('gpt1_jax.pretrain', run_name='__main__')
"""


@pytest.mark.slow
def test_a_stall_of_one_host_stops_all_with_code_75(data, tmp_path, ended):
  workdir = tmp_path / 'run'
  options = (
    *host_jobs.TINY,
    f'--config.data.path={data}',
    f'--workdir={workdir}',
  )
  stall = '--config.train.stall_minutes=0.5'
  job = ended(host_jobs.start(2, 4, '-c', STALLS, *options, stall))
  output = job.communicate(timeout=500)[0]
  assert job.returncode == 75, output
  assert 'Traceback' not in output
  for host in (0, 1):
    said = [x[4:] for x in output.splitlines() if x.startswith(f'[{host}] ')]
    (line,) = [x for x in said if x.startswith('error: ')]
    assert re.match(
      r'error: host 1 of 2 \(\S+, process \d+\) made no progress for 0.5 min '
      r'\(train.stall_minutes\) while reading the batch of update 6',
      line,
    )
    assert ('and host 0 waits' in line) == (host == 0)
    assert sum(x.startswith(('Thread 0x', 'Current')) for x in said) > 3
    assert any('in fit' in x for x in said)
  assert checkpoint.steps(str(workdir)) == [4]
