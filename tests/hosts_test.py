"""Runs jobs of several hosts as processes on this machine, with Gloo.

A run is the same however many hosts share its devices.
"""

import contextlib
import json
import os
import pathlib
import re
import shutil
import signal
import socket
import subprocess
import sys
import time

import jax
import numpy as np
import pytest

from gpt1_jax import config as config_lib
from gpt1_jax.corpus import shards
from gpt1_jax.errors import UserError
from gpt1_jax.model import models
from gpt1_jax.train import (
  checkpoint,
  hosts,
  pretraining,
  run,
  sharding,
)
from tests import QUICKLY_COMPILED
from tests.support import commands, small_runs
from tests.support.small_runs import rows

STEPS = 24
TINY = (
  '--config=configs/pretrain.py:tiny',
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
# Runs a command and lists the names it writes in its run directory.
AUDITED = """
import json, os, runpy, sys
out, workdir, module, *rest = sys.argv[1:]
written = set()
def note(event, args):
  if event == 'open' and isinstance(args[0], str):
    if not args[2] & (os.O_WRONLY | os.O_RDWR):
      return
  elif event not in ('os.mkdir', 'os.rename'):
    return
  path = os.path.relpath(os.path.abspath(str(args[0])), workdir)
  if path != '..' and not path.startswith('../'):
    written.add(path.split('/')[0])
sys.addaudithook(note)
sys.argv = [module, f'--workdir={workdir}', *rest]
try:
  runpy.run_module(module, run_name='__main__')
finally:
  name = out + '/' + os.environ['JAX_PROCESS_ID']
  json.dump(sorted(written), open(name, 'w'))
"""


def environment(**more):
  clean = {k: v for k, v in os.environ.items() if not k.startswith('JAX_')}
  return {
    **clean,
    'XLA_FLAGS': QUICKLY_COMPILED,
    'JAX_PLATFORMS': 'cpu',
    'PYTHONPATH': str(commands.ROOT),
    **more,
  }


def cluster(processes, devices, *words, start=False, grace=2):
  """Runs Python on `processes` hosts of `devices` each; returns the output."""
  job = subprocess.Popen(
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
  if start:
    return job
  with commands.ending(job):
    output = job.communicate(timeout=300)[0]
  assert job.returncode == 0, output
  return output


def state(workdir):
  """Restores the last checkpoint: parameters and the optimiser's moments."""
  header = run.load(str(workdir))
  program = pretraining.build(
    config_lib.parse(config_lib.PretrainConfig, header['config']),
    models.read(header['model']),
    sharding.make_mesh(jax.devices()[:1], data=1, fsdp=1, tensor=1),
    STEPS,
  )
  checkpoints = checkpoint.Checkpoints(str(workdir), keep=3, keep_best=False)
  with contextlib.closing(checkpoints):
    return checkpoints.restore(
      checkpoints.latest_intact(), program.arguments[0]
    )


def assert_same_run(a, b):
  for x, y in zip(rows(a), rows(b), strict=True):
    assert x == pytest.approx(y, rel=2e-6)
  one, other = state(a), state(b)
  assert int(one.step) == STEPS
  for x, y in zip(jax.tree.leaves(one), jax.tree.leaves(other), strict=True):
    np.testing.assert_allclose(x, y, rtol=0, atol=2e-6 * np.abs(y).max())


@pytest.fixture(scope='module')
def data(tmp_path_factory):
  folder = tmp_path_factory.mktemp('data') / 'reference'
  return commands.prepare_reference(
    folder, '--merges=300', '--validation_fraction=0.02'
  )


@pytest.fixture(scope='module')
def one_host(data, tmp_path_factory):
  """A run in one process with eight devices."""
  workdir = tmp_path_factory.mktemp('runs') / 'one'
  options = (*TINY, f'--workdir={workdir}', f'--config.data.path={data}')
  cluster(1, 8, '-m', 'gpt1_jax.pretrain', *options)
  return workdir


BY_TIME = (
  '--config.train.checkpoint_every=1000',
  '--config.train.checkpoint_minutes=0.001',
  '--config.train.keep=100',
)


@pytest.mark.slow
@pytest.mark.parametrize(
  ('processes', 'devices', 'saving'), [(2, 4, BY_TIME), (4, 2, ())]
)
def test_hosts_share_one_run(
  data, one_host, tmp_path, processes, devices, saving
):
  """Saves by time are after the same update on all hosts."""
  workdir, notes = tmp_path / 'run', tmp_path / 'notes'
  notes.mkdir()
  words = (notes, workdir, 'gpt1_jax.pretrain', *TINY, *saving)
  output = cluster(
    processes, devices, '-c', AUDITED, *words, f'--config.data.path={data}'
  )
  assert_same_run(workdir, one_host)
  if saving:  # beside the saves before evaluations, at 12 and 24
    assert len(set(checkpoint.steps(str(workdir))) - {12, 24}) > 1
  # Host 0 alone prints and writes, except for the parts of a checkpoint.
  assert '[0] pretrain 24/24' in output
  assert '[1] pretrain' not in output
  written = [json.loads((notes / str(i)).read_text()) for i in range(processes)]
  for name in ('config.json', 'metrics.jsonl', 'tensorboard', 'tokenizer'):
    assert any(path.startswith(name) for path in written[0])
  for others in written[1:]:
    assert set(others) <= {'checkpoints'}


@pytest.mark.slow
def test_other_hosts_resume_the_run_of_a_killed_one(
  data, one_host, tmp_path, ended
):
  workdir = tmp_path / 'run'
  options = ('gpt1_jax.pretrain', *TINY, f'--config.data.path={data}')
  words = ('-m', *options, f'--workdir={workdir}')
  job = ended(cluster(2, 2, *words, start=True))
  commands.await_until(job, (workdir / 'checkpoints' / '4').is_dir)
  os.kill(process_id(job, 1), signal.SIGKILL)
  killed = time.monotonic()
  output = job.communicate(timeout=60)[0]
  assert time.monotonic() - killed < 20
  assert job.returncode == 1
  assert 'process 1 of 2 was killed by SIGKILL: stopping the others' in output
  assert 'Traceback' not in output
  assert len(rows(workdir)) < STEPS
  more = tmp_path / 'more'
  shutil.copytree(workdir, more)
  cluster(1, 2, '-m', *options, f'--workdir={workdir}')
  assert_same_run(workdir, one_host)
  mesh = ('--config.mesh.fsdp=2', '--config.mesh.tensor=2')
  cluster(4, 1, '-m', *options, f'--workdir={more}', *mesh)
  assert_same_run(more, one_host)


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


@pytest.mark.slow
@pytest.mark.parametrize('index', [0, 1])
def test_a_hanging_host_ends_the_job(index, ended):
  seconds = 12
  code = MEETS.format(rounds=10_000, late=0)
  words = ('-c', code, f'--heartbeat_timeout={seconds}')
  job = ended(cluster(3, 1, *words, start=True))
  await_meeting(job)
  os.kill(process_id(job, index), signal.SIGSTOP)
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
  job = ended(cluster(3, 1, *words, start=True, grace=120))
  await_meeting(job)
  os.kill(process_id(job, index), signal.SIGKILL)
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
  words = ('-m', 'gpt1_jax.pretrain', *TINY, f'--workdir={workdir}')
  endless = ('--config.train.num_steps=100000', f'--config.data.path={data}')
  job = ended(cluster(2, 1, *words, *endless, start=True))
  commands.await_until(job, (workdir / 'checkpoints' / '4').is_dir)
  os.kill(process_id(job, 1), signal.SIGTERM)
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
  options = (*TINY, f'--config.data.path={data}', f'--workdir={workdir}')
  stall = '--config.train.stall_minutes=0.5'
  job = ended(cluster(2, 4, '-c', STALLS, *options, stall, start=True))
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


# Each host runs in a folder of its own; host 1 has one more flag, if given.
APART = """
import os, runpy, sys
folder, more, module, *words = sys.argv[1:]
index = os.environ['JAX_PROCESS_ID']
os.chdir(f'{folder}/{index}')
sys.argv = [module, *words] + [more] * (index == '1' and more != '')
runpy.run_module(module, run_name='__main__')
"""


@pytest.mark.slow
@pytest.mark.parametrize(
  ('what', 'differs'),
  [
    ('flag', '--config.optim.peak_lr'),
    ('workdir', 'folder run (it must be shared)'),
    ('data', 'model of the run'),
    ('weights', 'weights'),
  ],
)
def test_hosts_that_differ_are_refused(
  data, one_host, tmp_path, ended, what, differs
):
  for index in '01':
    (tmp_path / index).mkdir()
    shutil.copytree(data, tmp_path / index / 'data')
  command = ['gpt1_jax.pretrain', *TINY, '--config.data.path=data']
  command.append(
    f'--workdir={"run" if what == "workdir" else tmp_path / "run"}'
  )
  more = '--config.optim.peak_lr=1e-2' if what == 'flag' else ''
  if what == 'data':
    shutil.rmtree(tmp_path / '1' / 'data')
    commands.prepare_reference(tmp_path / '1' / 'data', '--merges=310')
  elif what == 'weights':
    for index in '01':
      shutil.copytree(one_host, tmp_path / index / 'one')
    shutil.rmtree(tmp_path / '1' / 'one' / 'checkpoints' / str(STEPS))
    command = ['gpt1_jax.evaluate', '--workdir=one', f'--data={data}']
  job = ended(cluster(2, 1, '-c', APART, tmp_path, more, *command, start=True))
  output = job.communicate(timeout=300)[0]
  assert job.returncode == 1  # of the launcher
  for index in (0, 1):
    line = (
      f"[{index}] error: host 1: its {differs} differs from host 0's; every"
    )
    assert output.count(line) == 1, output
  assert 'Traceback' not in output
  assert not (tmp_path / 'run').exists()


@pytest.mark.slow
@pytest.mark.parametrize('index', [0, 1])
def test_a_mistake_on_one_host_ends_the_others_at_once(
  data, tmp_path, ended, index
):
  for host in '01':
    (tmp_path / host).mkdir()
    shutil.copytree(data, tmp_path / host / 'data')
  shutil.rmtree(tmp_path / str(index) / 'data')
  command = ['gpt1_jax.pretrain', *TINY, '--config.data.path=data']
  command.append(f'--workdir={tmp_path / "run"}')
  # The launcher waits for so long; the heartbeat waits for longer.
  job = ended(
    cluster(2, 1, '-c', APART, tmp_path, '', *command, start=True, grace=30)
  )
  output = job.communicate(timeout=90)[0]
  problem = 'data: no prepared shards here'
  other = f'[{1 - index}] error: host {index}: {problem}'
  assert output.count(other) == 1, output
  assert output.count(f'[{index}] error: {problem}') == 1, output
  assert output.count('error: ') == 3  # and the launcher's
  assert 'ended with exit code 2: stopping the others\n' in output
  assert 'Traceback' not in output
  left = {file.name for file in (tmp_path / 'run').glob('*')}
  assert left <= {'lock'}  # of a dead process


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
  assert cluster(2, 1, '-c', code).count('6.0') == 2


@pytest.mark.slow
def test_a_host_that_finishes_late_is_waited_for():
  code = MEETS.format(rounds=21, late=15)
  output = cluster(3, 1, '-c', code, '--heartbeat_timeout=10')
  # Threads of Gloo mix their lines, which may leave empty ones.
  lines = [x for x in output.splitlines() if x[4:] and 'Gloo' not in x]
  assert sorted(lines) == [f'[{i}] all have met' for i in range(3)]


def await_meeting(job):
  """Reads the output until each of three hosts says that all have met."""
  output = ''
  while output.count('all have met') < 3:
    line = job.stdout.readline()
    assert line, f'the job ended: {output}'
    output += line


def process_id(job, index):
  """Returns the process id of one host of a job."""
  children = pathlib.Path(f'/proc/{job.pid}/task/{job.pid}/children')
  if not children.exists():
    pytest.skip('needs /proc to find the children of a process')
  return int(children.read_text().split()[index])


READS = """
import json, sys
from gpt1_jax import cli, cluster
from gpt1_jax.corpus import shards, windows
from gpt1_jax.train import sharding
import jax, numpy as np
from jax.experimental import multihost_utils

out = sys.argv.pop(1)
tokens, read = shards.Tokens(sys.argv.pop(1), 'validation'), []
plain = tokens.read
tokens.read = lambda start, count: read.append(start) or plain(start, count)

def main():
  with cluster.connected():
    found = {}
    for sizes in ((4, 1, 1), (2, 1, 2), (1, 4, 1), (1, 1, 4), (1, 2, 2)):
      mesh = sharding.make_mesh(
        jax.devices(), **dict(zip(sharding.MESH_AXES, sizes)))
      rows = list(sharding.host_rows(mesh, 8))
      split = windows.Windows(
        tokens, n_ctx=32, batch_size=8, cross_documents=True, seed=None,
        rows=rows)
      read.clear()
      targets = []
      for step in range(split.steps_per_epoch):
        batch = sharding.put_batch(split.batch(step), mesh)
        batch = jax.tree.map(
          lambda x: multihost_utils.process_allgather(x, tiled=True), batch)
        targets += batch['tokens'][batch['lm_weights'] > 0].tolist()
      found['x'.join(map(str, sizes))] = {
        'rows': rows, 'read': sorted(read), 'targets': targets}
    with open(f'{out}/{jax.process_index()}.json', 'w') as file:
      json.dump(found, file)
cli.run(main)
"""


@pytest.mark.slow
def test_hosts_read_their_own_rows_and_count_each_target_once(data, tmp_path):
  cluster(2, 2, '-c', READS, tmp_path, data)
  one, two = (
    json.loads((tmp_path / f'{i}.json').read_text()) for i in range(2)
  )
  stream = shards.Tokens(data, 'validation')
  stream = stream.read(0, stream.num_tokens).tolist()
  for name, a in one.items():
    b = two[name]
    assert a['targets'] == b['targets'] == stream[1:]
    shared = name.endswith('1x4')
    assert a['rows'] == (list(range(8)) if shared else [0, 1, 2, 3])
    assert b['rows'] == (list(range(8)) if shared else [4, 5, 6, 7])
    assert bool(set(a['read']) & set(b['read'])) == shared
    assert len({*a['read'], *b['read']}) == -(-(len(stream) - 1) // 31)


@pytest.mark.slow
def test_evaluate_and_finetune_on_two_hosts(one_host, tmp_path):
  output = cluster(
    2, 1, '-m', 'gpt1_jax.evaluate', f'--workdir={one_host}', '--batch_size=4'
  )
  lines = [x for x in output.splitlines() if '"eval_loss"' in x]
  assert len(lines) == 1
  scores = json.loads((one_host / 'scores.json').read_text())
  assert json.loads(lines[0][4:])['eval_loss'] == pytest.approx(
    scores['eval_loss'], rel=2e-6
  )
  task = small_runs.write_task(tmp_path / 'task', train=20, dev=11)
  options = (
    '--config=configs/own_task.py:tiny',
    f'--config.init_from={one_host}',
    f'--config.data.path={task}',
    '--config.data.lengths=(32,)',
    '--config.optim.eps=1e-2',
    '--config.train.num_steps=6',
    '--config.mesh.fsdp=2',
  )
  runs = [tmp_path / 'one', tmp_path / 'two']
  for workdir, shape in zip(runs, ((1, 2), (2, 1)), strict=True):
    cluster(*shape, '-m', 'gpt1_jax.finetune', *options, f'--workdir={workdir}')
  for x, y in zip(*map(rows, runs), strict=True):
    assert x == pytest.approx(y, rel=2e-6)
  one, two = (run / 'predictions' / 'dev.tsv' for run in runs)
  assert len(one.read_text().splitlines()) == 1 + 11
  for x, y in zip(
    one.read_text().split(), two.read_text().split(), strict=True
  ):
    assert x == y or float(x) == pytest.approx(float(y), rel=2e-5)


@pytest.mark.parametrize(('code', 'resumes'), [(1, True), (2, False)])
def test_the_launcher_offers_to_resume_but_after_a_mistake(code, resumes):
  """A mistake of the user stays one with the same command."""
  output, _ = cluster(
    2, 1, '-c', f'import sys; sys.exit({code})', start=True
  ).communicate(timeout=60)
  assert f'of 2 ended with exit code {code}: stopping the others' in output
  assert ('the same command resumes' in output) == resumes


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
      env=environment(
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


@pytest.mark.parametrize(
  ('code', 'message'),
  [
    ('import sys; sys.exit(3)', 'process 0 of 1 ended with exit code 3'),
    ('import os; os.kill(os.getpid(), 9)', 'process 0 of 1 was killed by SIG'),
  ],
)
def test_the_launcher_reports_how_a_process_ended(code, message, ended):
  job = ended(cluster(1, 1, '-c', code, start=True))
  assert message in job.communicate(timeout=60)[0]
  assert job.returncode == 1


@pytest.mark.skipif(sys.platform != 'linux', reason='Linux alone ends them')
def test_processes_stop_with_a_killed_launcher():
  code = 'import os, time; print(os.getpid()); time.sleep(60)'
  with cluster(2, 1, '-c', code, start=True) as job:
    found = [int(job.stdout.readline().split()[1]) for _ in range(2)]
    job.kill()
    deadline = time.monotonic() + 20
    while any(map(_is_alive, found)) and time.monotonic() < deadline:
      time.sleep(0.05)
    assert not any(map(_is_alive, found))


def _is_alive(pid: int) -> bool:
  try:
    text = pathlib.Path(f'/proc/{pid}/stat').read_text()
  except FileNotFoundError:
    return False
  return text.rpartition(')')[2].split()[0] != 'Z'
