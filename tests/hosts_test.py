"""A run is the same however many hosts share its devices.

Hosts that differ are refused.
"""

import contextlib
import json
import os
import shutil
import signal
import time

import jax
import numpy as np
import pytest

from gpt1_jax import config as config_lib
from gpt1_jax.model import models
from gpt1_jax.train import (
  checkpoint,
  pretraining,
  run,
  sharding,
)
from tests.support import commands, host_jobs, small_runs
from tests.support.small_runs import rows

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


def state(workdir):
  """Restores the last checkpoint: parameters and the optimiser's moments."""
  header = run.load(str(workdir))
  program = pretraining.build(
    config_lib.parse(config_lib.PretrainConfig, header['config']),
    models.read(header['model']),
    sharding.make_mesh(jax.devices()[:1], data=1, fsdp=1, tensor=1),
    host_jobs.STEPS,
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
  assert int(one.step) == host_jobs.STEPS
  for x, y in zip(jax.tree.leaves(one), jax.tree.leaves(other), strict=True):
    np.testing.assert_allclose(x, y, rtol=0, atol=2e-6 * np.abs(y).max())


@pytest.fixture(scope='module')
def data(tmp_path_factory):
  return host_jobs.prepare(tmp_path_factory.mktemp('data') / 'reference')


@pytest.fixture(scope='module')
def one_host(data, tmp_path_factory):
  """A run in one process with eight devices."""
  workdir = tmp_path_factory.mktemp('runs') / 'one'
  options = (
    *host_jobs.TINY,
    f'--workdir={workdir}',
    f'--config.data.path={data}',
  )
  host_jobs.run(1, 8, '-m', 'gpt1_jax.pretrain', *options)
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
  words = (notes, workdir, 'gpt1_jax.pretrain', *host_jobs.TINY, *saving)
  output = host_jobs.run(
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
  options = ('gpt1_jax.pretrain', *host_jobs.TINY, f'--config.data.path={data}')
  words = ('-m', *options, f'--workdir={workdir}')
  job = ended(host_jobs.start(2, 2, *words))
  commands.await_until(job, (workdir / 'checkpoints' / '4').is_dir)
  os.kill(host_jobs.process_id(job, 1), signal.SIGKILL)
  killed = time.monotonic()
  output = job.communicate(timeout=60)[0]
  assert time.monotonic() - killed < 20
  assert job.returncode == 1
  assert 'process 1 of 2 was killed by SIGKILL: stopping the others' in output
  assert 'Traceback' not in output
  assert len(rows(workdir)) < host_jobs.STEPS
  more = tmp_path / 'more'
  shutil.copytree(workdir, more)
  host_jobs.run(1, 2, '-m', *options, f'--workdir={workdir}')
  assert_same_run(workdir, one_host)
  mesh = ('--config.mesh.fsdp=2', '--config.mesh.tensor=2')
  host_jobs.run(4, 1, '-m', *options, f'--workdir={more}', *mesh)
  assert_same_run(more, one_host)


@pytest.mark.slow
def test_evaluate_and_finetune_on_two_hosts(one_host, tmp_path):
  output = host_jobs.run(
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
    host_jobs.run(
      *shape, '-m', 'gpt1_jax.finetune', *options, f'--workdir={workdir}'
    )
  for x, y in zip(*map(rows, runs), strict=True):
    assert x == pytest.approx(y, rel=2e-6)
  one, two = (run / 'predictions' / 'dev.tsv' for run in runs)
  assert len(one.read_text().splitlines()) == 1 + 11
  for x, y in zip(
    one.read_text().split(), two.read_text().split(), strict=True
  ):
    assert x == y or float(x) == pytest.approx(float(y), rel=2e-5)


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
  command = ['gpt1_jax.pretrain', *host_jobs.TINY, '--config.data.path=data']
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
    shutil.rmtree(tmp_path / '1' / 'one' / 'checkpoints' / str(host_jobs.STEPS))
    command = ['gpt1_jax.evaluate', '--workdir=one', f'--data={data}']
  job = ended(host_jobs.start(2, 1, '-c', APART, tmp_path, more, *command))
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
  command = ['gpt1_jax.pretrain', *host_jobs.TINY, '--config.data.path=data']
  command.append(f'--workdir={tmp_path / "run"}')
  # The launcher waits for so long; the heartbeat waits for longer.
  job = ended(
    host_jobs.start(2, 1, '-c', APART, tmp_path, '', *command, grace=30)
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
