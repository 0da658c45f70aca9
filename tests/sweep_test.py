"""launch/sweep.py as a user runs it: killed, resumed, shared by hosts."""

import fcntl
import json
import shutil
import signal

import pytest

from gpt1_jax import interrupts
from tests.support import commands


def sweep(*args):
  done = commands.run('launch/sweep.py', *args)
  assert 'Traceback' not in done.stderr
  return done.returncode, done.stdout, done.stderr


def test_dry_run_prints_the_commands(tmp_path):
  arguments = (
    *(f'--output={tmp_path}/out', '--init_from=runs/mini', '--lstm=runs/lstm'),
    *('--tasks=cola,rte', '--ablations=full,scratch,no_aux,layers:0,lstm'),
    *('--seeds=3', '--data_path=glue', '--dry_run'),
    *('--config=configs/finetune.py:tiny', '--config.optim.peak_lr=2.5e-4'),
  )
  code, out, err = sweep(*arguments)
  assert code == 0, err
  assert not (tmp_path / 'out').exists()
  common = '--config.train.seeds=3 --config.data.path=glue '
  common += '--config.optim.peak_lr=2.5e-4'
  expected = [
    'python -m gpt1_jax.finetune '
    f'--config=configs/finetune.py:{task}{words},tiny '
    f'--workdir={tmp_path}/out/{task}/{folder} --config.{given} {common}'
    for task in ('cola', 'rte')
    for words, folder, given in (
      ('', 'full', 'init_from=runs/mini'),
      (',scratch', 'scratch', 'like=runs/mini'),
      (',no_aux', 'no_aux', 'init_from=runs/mini'),
      ('', 'layers-0', 'init_from=runs/mini --config.transfer.layers=0'),
      (',lstm', 'lstm', 'init_from=runs/lstm'),
    )
  ]
  assert out.splitlines() == expected
  _, shared, _ = sweep(*arguments, '--hosts=3', '--host=1')
  assert shared.splitlines() == expected[1::3]


@pytest.mark.parametrize(
  ('wrong', 'what'),
  [
    (
      '--ablations=full,half',
      "no ablation 'half'; use full, scratch, no_aux, lstm",
    ),
    ('--ablations=lstm', '--lstm is missing'),
    ('--tasks=cola,colour', "no task 'colour'; use cola, sst2"),
    ('--host=1', 'a host from 0 to hosts - 1'),
    ('--config.transfer.layers=1', 'transfer.layers: use --ablations instead'),
    ('--config=configs/finetune.py:scratch', 'give tasks with --tasks'),
  ],
)
def test_a_mistake_is_one_line(wrong, what, tmp_path):
  code, _, err = sweep(
    *(f'--output={tmp_path}/out', '--init_from=x', '--tasks=cola'),
    *('--data_path=x', wrong),
  )
  assert code == 2
  assert what in err
  assert err.startswith('error: ')
  assert len(err.splitlines()) == 1
  assert not (tmp_path / 'out').exists()


def figures(output):
  results = json.loads((output / 'summary.json').read_text())
  return {tuple(name.split()): result for name, result in results.items()}


STOPPED_AT_A_START = """
import os, runpy, signal, subprocess, sys

start = subprocess.Popen

def start_and_stop(words, **settings):
  sleep = 'import time; time.sleep(600)'
  process = start([sys.executable, '-c', sleep], **settings)
  os.kill(os.getpid(), signal.SIGTERM)
  return process

subprocess.Popen = start_and_stop
runpy.run_path('launch/sweep.py', run_name='__main__')
"""


def test_sigterm_at_a_start_leaves_no_job(tmp_path):
  done = commands.run(
    *('-c', STOPPED_AT_A_START, f'--output={tmp_path}/out'),
    *('--init_from=x', '--tasks=cola', '--data_path=x'),
  )
  assert done.returncode == interrupts.EXIT_CODE, done.stderr
  assert '[1/1] cola full: running' in done.stdout
  # A job that lived would hold the lock.
  with (tmp_path / 'out' / 'cola' / 'full.log').open('a') as log:
    fcntl.flock(log, fcntl.LOCK_EX | fcntl.LOCK_NB)


@pytest.mark.slow
def test_killed_failed_and_resumed(pretrained, archives, tmp_path, ended):
  data, output = tmp_path / 'data', tmp_path / 'out'
  data.mkdir()
  shutil.copy(archives / 'CoLA.zip', data)
  arguments = (
    *(f'--output={output}', f'--init_from={pretrained}', f'--data_path={data}'),
    *('--tasks=cola,rte', '--ablations=full,scratch', '--seeds=2'),
    *('--config=configs/finetune.py:tiny', '--config.train.num_steps=2'),
    *('--config.data.lengths=(64,)', '--config.data.batch_size=2'),
  )
  # Stopped while it runs the second job.
  process = ended(commands.start('launch/sweep.py', *arguments))
  said = ''
  while '[2/4] cola scratch: running' not in said:
    line = process.stdout.readline()
    assert line, process.communicate()[1]
    said += line
  process.send_signal(signal.SIGTERM)
  process.communicate()
  assert process.returncode == interrupts.EXIT_CODE
  first = output / 'cola' / 'full' / 'scores.json'
  assert not (output / 'cola' / 'scratch' / 'scores.json').exists()
  cell = figures(output)['cola', 'full']
  scores = json.loads(first.read_text())
  del scores['checksum']
  assert (cell['split'], cell['metric']) == ('dev', 'matthews')
  assert cell['seeds'] == scores['seeds'] == [0, 1]
  assert cell == scores

  # RTE fails, which does not stop the other jobs.
  written = first.stat().st_mtime_ns
  code, out, err = sweep(*arguments)
  assert code == 1
  assert '2 of 4 jobs failed (rte full, rte scratch)' in err
  assert '[1/4] cola full: dev matthews' in out
  assert 'already finished' in out
  assert first.stat().st_mtime_ns == written
  found = figures(output)
  assert 'score' in found['cola', 'scratch']
  assert 'no train file of task rte' in found['rte', 'full']['error']
  table = (output / 'summary.md').read_text()
  assert table.count('| no score') == 2
  facts = json.loads((output / 'cola' / 'scratch' / 'config.json').read_text())
  assert facts['config']['init_from'] == 'none'
  assert facts['layers_transferred'] is None

  # With its data there, the second of two hosts runs its share.
  shutil.copy(archives / 'RTE.zip', data)
  code, out, err = sweep(*arguments, '--hosts=2', '--host=1')
  assert code == 0, err
  assert '[1/2] cola scratch: dev matthews' in out
  found = figures(output)
  assert 'score' in found['rte', 'scratch']
  assert 'error' in found['rte', 'full']
  assert first.stat().st_mtime_ns == written
  assert not list(output.rglob('*.tmp'))

  # A job that another process runs is not started.
  with (output / 'rte' / 'full.log').open('a') as log:
    fcntl.flock(log, fcntl.LOCK_EX)
    code, out, err = sweep(*arguments, '--hosts=4', '--host=2')
  assert code == 1
  assert '[1/1] rte full: failed: another process is running it' in out
  assert not (output / 'rte' / 'full').exists()

  # Another configuration in the same place is refused, job by job.
  code, _, err = sweep(
    *arguments, '--config.optim.peak_lr=1', '--host=1', '--hosts=4'
  )
  assert code == 1
  assert '1 of 1 jobs failed (cola scratch)' in err
  error = figures(output)['cola', 'scratch']['error']
  assert 'different optim.peak_lr' in error
