"""Stopped runs continue: real processes, stopped in every phase."""

import errno
import json
import os
import signal
import time
from unittest import mock

import pytest

from gpt1_jax import terminal
from gpt1_jax.train import checkpoint
from tests.support import commands, short_runs, small_runs
from tests.support.small_runs import assert_same, rows


@pytest.fixture(scope='module')
def data(tmp_path_factory):
  return short_runs.prepare(tmp_path_factory.mktemp('data'))


@pytest.fixture(scope='module')
def straight(data, tmp_path_factory):
  workdir = tmp_path_factory.mktemp('runs') / 'straight'
  commands.succeed('pretrain', *short_runs.options(data, workdir))
  return workdir


def await_path(process, path):
  """Waits until a process has written a file that is not empty."""
  commands.await_until(process, lambda: path.exists() and path.stat().st_size)


@pytest.mark.slow
@pytest.mark.parametrize(
  ('moment', 'numbers'),
  [
    ('metrics.jsonl', [signal.SIGUSR1, signal.SIGTERM, signal.SIGXCPU]),
    ('config.json', [signal.SIGINT]),  # about to compile
  ],
)
def test_a_stopped_run_is_saved_and_resumed(
  data, straight, tmp_path, moment, numbers, ended
):
  workdir = tmp_path / 'run'
  process = ended(
    commands.start('pretrain', *short_runs.options(data, workdir))
  )
  await_path(process, workdir / moment)
  for number in numbers:
    process.send_signal(number)
    time.sleep(0.02)
  _, stderr = process.communicate(timeout=400)
  assert process.returncode == 75, stderr
  (line,) = [x for x in stderr.splitlines() if x.startswith('stopped by')]
  assert 'the same command continues' in line
  assert 'Traceback' not in stderr
  done = int(line.partition('after update ')[2].partition(',')[0] or 0)
  assert done or 'before the first update' in line
  assert not (workdir / 'lock').exists()
  if done:
    assert checkpoint.steps(str(workdir)) == [done]
  commands.succeed('pretrain', *short_runs.options(data, workdir))
  assert_same(workdir, straight)
  history = (workdir / 'history.jsonl').read_text().splitlines()
  assert [json.loads(row)['step'] for row in history] == [0, done]


@pytest.fixture(scope='module')
def task(tmp_path_factory):
  return small_runs.write_task(
    tmp_path_factory.mktemp('task'), train=160, dev=16
  )


def tuning(task, straight, workdir):
  return (
    '--config=configs/own_task.py:tiny',
    f'--config.init_from={straight}',
    f'--config.data.path={task}',
    '--config.data.batch_size=4',
    '--config.train.num_epochs=0',
    '--config.train.num_steps=120',
    '--config.train.eval_every=60',
    '--config.train.log_every=10',
    '--config.train.checkpoint_minutes=0',
    f'--workdir={workdir}',
  )


@pytest.fixture(scope='module')
def tuned(task, straight, tmp_path_factory):
  workdir = tmp_path_factory.mktemp('tuned') / 'straight'
  commands.succeed('finetune', *tuning(task, straight, workdir))
  return workdir


@pytest.mark.slow
@pytest.mark.parametrize('number', [signal.SIGTERM, signal.SIGINT])
def test_stopped_fine_tuning_is_saved_and_resumed(
  task, straight, tuned, tmp_path, number, ended
):
  workdir = tmp_path / 'run'
  words = tuning(task, straight, workdir)
  process = ended(commands.start('finetune', *words))
  await_path(process, workdir / 'metrics.jsonl')
  process.send_signal(number)
  _, stderr = process.communicate(timeout=400)
  assert process.returncode == 75, stderr
  (line,) = [x for x in stderr.splitlines() if x.startswith('stopped by')]
  done = int(line.partition('after update ')[2].partition(',')[0] or 0)
  assert 0 < done < 120
  assert done in checkpoint.steps(str(workdir))
  assert not (workdir / 'scores.json').exists()
  commands.succeed('finetune', *words)
  assert_same(workdir, tuned)
  for name in ('scores.json', 'predictions/dev.jsonl'):
    assert (workdir / name).read_bytes() == (tuned / name).read_bytes()


@pytest.mark.slow
def test_a_second_ctrl_c_leaves_at_once(data, tmp_path, ended):
  workdir = tmp_path / 'run'
  process = ended(
    commands.start('pretrain', *short_runs.options(data, workdir))
  )
  await_path(process, workdir / 'metrics.jsonl')
  time.sleep(0.3)  # it compiles for seconds
  process.send_signal(signal.SIGINT)
  time.sleep(0.1)
  process.send_signal(signal.SIGINT)
  _, stderr = process.communicate(timeout=300)
  assert process.returncode == 130
  assert 'interrupted twice' in stderr
  assert 'Traceback' not in stderr


@pytest.mark.slow
def test_a_run_outlives_its_terminal_and_its_reader(
  data, straight, tmp_path, ended
):
  workdir = tmp_path / 'run'
  process = ended(
    commands.start('pretrain', *short_runs.options(data, workdir))
  )
  process.stdout.close()
  process.stderr.close()
  time.sleep(1)
  await_path(process, workdir / 'config.json')
  process.send_signal(signal.SIGHUP)
  assert process.wait(timeout=500) == 0
  assert_same(workdir, straight)


def test_a_run_outlives_a_log_on_a_full_disk():
  stream = mock.Mock()
  stream.write.side_effect = OSError(errno.ENOSPC, 'No space left on device')
  stream.flush.side_effect = OSError(errno.EBADF, 'Bad file descriptor')
  log = terminal._Outliving(stream)
  assert log.write('a line') == 6
  with pytest.raises(OSError, match='Bad file'):
    log.flush()


@pytest.mark.slow
def test_one_process_runs_in_a_directory(data, straight, tmp_path, ended):
  workdir = tmp_path / 'run'
  more = '--config.train.num_steps=100000'
  first = ended(
    commands.start('pretrain', *short_runs.options(data, workdir), more)
  )
  await_path(first, workdir / 'lock')
  line = commands.fail('pretrain', *short_runs.options(data, workdir))
  assert f'process {first.pid} on {os.uname().nodename} runs here' in line
  assert first.poll() is None
  first.kill()
  first.communicate()
  assert (workdir / 'lock').exists()  # of a dead process
  commands.succeed('pretrain', *short_runs.options(data, workdir))
  assert_same(workdir, straight)


@pytest.mark.slow
def test_a_run_is_made_longer_forked_and_begun_from(data, straight, tmp_path):
  workdir = tmp_path / 'fork'
  fork = (f'--fork_from={straight}@400', '--config.train.num_steps=420')
  args = (
    *short_runs.options(data, workdir),
    *fork,
    '--config.optim.peak_lr=1e-3',
  )
  commands.succeed('pretrain', *args)
  header = json.loads((workdir / 'config.json').read_text())
  assert header['forked_from'] == {'run': str(straight), 'step': 400}
  assert rows(workdir)[0]['step'] == 400
  longer = ('--config.train.num_steps=430', '--config.model.dtype=bfloat16')
  done = commands.run('pretrain', *args, *longer)
  assert done.returncode == 0
  assert '430 updates now, 420 before; after update 420' in done.stderr
  last = (workdir / 'history.jsonl').read_text().splitlines()[-1]
  assert json.loads(last)['changes'] == {
    'model.dtype': ['float32', 'bfloat16'],
    'train.num_steps': [420, 430],
  }
  line = commands.fail('pretrain', *args)
  assert 'has 430 updates, and the configuration asks for 420' in line
  assert '--fork_from=' in line
  line = commands.fail('pretrain', *args, '--config.optim.b1=0.5')
  assert 'different optim.b1' in line
  assert f'--config.init_from={workdir}' in line
  line = commands.fail('pretrain', *args, *longer, f'--fork_from={workdir}')
  assert f'was not forked from {workdir}' in line
  begun = tmp_path / 'begun'
  args = (*short_runs.options(data, begun), f'--config.init_from={straight}')
  commands.succeed('pretrain', *args, '--config.train.num_steps=1')
  assert rows(begun)[0]['loss'] < rows(straight)[0]['loss'] - 1


@pytest.mark.slow
def test_a_refused_start_leaves_nothing(data, straight, tmp_path):
  workdir = tmp_path / 'new' / 'run'
  args = short_runs.options(data, workdir)
  for wrong, message in (
    ('--config.train.seed=-1', 'seed'),
    ('--fork_from=nowhere', 'nowhere'),
    (f'--fork_from={straight}@7', 'no checkpoint 7'),
    (f'--config.init_from={straight}', 'has n_embd 32'),
  ):
    more = ('--config.model.n_embd=64',) if 'init_from' in wrong else ()
    assert message in commands.fail('pretrain', *args, wrong, *more)
    assert not (tmp_path / 'new').exists(), wrong
