"""Signals, locks and stalls: real processes, stopped in every phase."""

import errno
import json
import os
import signal
import subprocess
import sys
import time
from unittest import mock

import numpy as np
import pytest

from gpt1_jax import terminal
from gpt1_jax.errors import UserError
from gpt1_jax.train import checkpoint, lock, saving
from tests.support import commands, small_runs
from tests.support.small_runs import assert_same, rows

TINY = (
  '--config=configs/pretrain.py:tiny',
  '--config.model.n_layer=1',
  '--config.model.n_embd=32',
  '--config.model.n_ctx=32',
  '--config.data.batch_size=4',
  '--config.train.num_steps=400',
  '--config.train.eval_every=200',
  '--config.train.checkpoint_every=1000',
  '--config.train.log_every=20',
)


@pytest.fixture(scope='module')
def data(tmp_path_factory):
  folder = tmp_path_factory.mktemp('data')
  for number in range(4):
    text = ' '.join(f'word{i * number % 97} of it.' for i in range(4000))
    (folder / f'{number}.txt').write_text(text)
  output = folder / 'shards'
  commands.succeed(
    'prepare',
    f'--input={folder}/*.txt',
    f'--output={output}',
    '--merges=40',
    '--workers=1',
    '--validation_fraction=0',
    '--hold_out=*/3.txt',
  )
  return output


@pytest.fixture(scope='module')
def straight(data, tmp_path_factory):
  workdir = tmp_path_factory.mktemp('runs') / 'straight'
  commands.succeed('pretrain', *options(data, workdir))
  return workdir


def options(data, workdir):
  return (*TINY, f'--config.data.path={data}', f'--workdir={workdir}')


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
  process = ended(commands.start('pretrain', *options(data, workdir)))
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
  commands.succeed('pretrain', *options(data, workdir))
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
  process = ended(commands.start('pretrain', *options(data, workdir)))
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
  process = ended(commands.start('pretrain', *options(data, workdir)))
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
  first = ended(commands.start('pretrain', *options(data, workdir), more))
  await_path(first, workdir / 'lock')
  line = commands.fail('pretrain', *options(data, workdir))
  assert f'process {first.pid} on {os.uname().nodename} runs here' in line
  assert first.poll() is None
  first.kill()
  first.communicate()
  assert (workdir / 'lock').exists()  # of a dead process
  commands.succeed('pretrain', *options(data, workdir))
  assert_same(workdir, straight)


@pytest.mark.slow
def test_a_run_is_made_longer_forked_and_begun_from(data, straight, tmp_path):
  workdir = tmp_path / 'fork'
  fork = (f'--fork_from={straight}@400', '--config.train.num_steps=420')
  args = (*options(data, workdir), *fork, '--config.optim.peak_lr=1e-3')
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
  args = (*options(data, begun), f'--config.init_from={straight}')
  commands.succeed('pretrain', *args, '--config.train.num_steps=1')
  assert rows(begun)[0]['loss'] < rows(straight)[0]['loss'] - 1


@pytest.mark.slow
def test_a_refused_start_leaves_nothing(data, straight, tmp_path):
  workdir = tmp_path / 'new' / 'run'
  args = options(data, workdir)
  for wrong, message in (
    ('--config.train.seed=-1', 'seed'),
    ('--fork_from=nowhere', 'nowhere'),
    (f'--fork_from={straight}@7', 'no checkpoint 7'),
    (f'--config.init_from={straight}', 'has n_embd 32'),
  ):
    more = ('--config.model.n_embd=64',) if 'init_from' in wrong else ()
    assert message in commands.fail('pretrain', *args, wrong, *more)
    assert not (tmp_path / 'new').exists(), wrong


STALLS = """
import time
from gpt1_jax.train import pulse
with pulse.watched(0.02):
  for _ in range(4):
    pulse.beat('reading a batch')
    time.sleep(0.6)
  print('alive', flush=True)
  time.sleep(100)
"""


def test_a_stuck_run_ends_with_its_stacks():
  done = subprocess.run(
    [sys.executable, '-c', STALLS],
    cwd=commands.ROOT,
    capture_output=True,
    text=True,
    timeout=300,
  )
  assert done.returncode == 75
  assert done.stdout == 'alive\n'
  assert 'File "<string>", line 9' in done.stderr  # the stack of the thread
  (line,) = [x for x in done.stderr.splitlines() if x.startswith('error:')]
  assert 'host 0 of 1' in line
  assert 'while reading a batch' in line


# The batch of update 6 has weights that are not finite.
NOT_FINITE = """
import runpy, sys
from gpt1_jax.corpus import windows
plain = windows.Windows.batch
def batch(self, step):
  found = plain(self, step)
  if step == 5 and self._shuffled:  # training
    found['lm_weights'][0, 3] = float('nan')
  return found
windows.Windows.batch = batch
sys.argv[0] = 'pretrain'
runpy.run_module('gpt1_jax.pretrain', run_name='__main__')
"""


@pytest.mark.slow
@pytest.mark.parametrize('may_skip', [0, 1])
def test_an_update_that_is_not_finite_is_skipped_or_ends_the_run(
  data, tmp_path, may_skip
):
  import jax

  done = commands.run_forked(
    NOT_FINITE,
    *options(data, tmp_path / 'run'),
    '--config.train.num_steps=8',
    '--config.train.eval_every=8',
    '--config.train.checkpoint_every=1',
    '--config.train.keep=8',
    '--config.train.log_every=1',
    f'--config.train.skip_nonfinite={may_skip}',
  )
  steps = checkpoint.steps(str(tmp_path / 'run'))
  saved = [checkpoint.read(str(tmp_path / 'run'), s).params for s in steps]
  assert all(np.isfinite(x).all() for x in jax.tree.leaves(saved))
  skipped = [r for r in rows(tmp_path / 'run') if 'skipped' in r]
  if not may_skip:
    line = commands.error_of(done, code=1)
    assert 'loss is nan at update 6: the run stops here' in line
    assert steps == [1, 2, 3, 4, 5]
    assert skipped == []
    return
  assert done.returncode == 0, done.stderr
  assert 'loss is nan at update 6: skipped (1 of 1' in done.stderr
  assert skipped == [{'step': 6, 'skipped': 1}]
  assert steps == list(range(1, 9))
  jax.tree.map(np.testing.assert_array_equal, saved[4], saved[5])
  assert any(
    (a != b).any()
    for a, b in zip(*map(jax.tree.leaves, saved[5:7]), strict=True)
  )


# sitecustomize.py: Ctrl-C while the first library is imported.
EARLY = """
import os, signal, sys, time
class Finder:
  def find_spec(self, name, path=None, target=None):
    if name == 'absl':
      os.kill(os.getpid(), signal.SIGINT)
      time.sleep(20)
sys.meta_path.insert(0, Finder())
"""


@pytest.mark.parametrize(
  'command',
  [
    *('prepare', 'pretrain', 'finetune', 'predict', 'evaluate'),
    *('generate', 'serve', 'convert', 'report'),
  ],
)
def test_a_command_handles_signals_before_its_imports(command, tmp_path):
  (tmp_path / 'sitecustomize.py').write_text(EARLY)
  done = commands.run(command, PYTHONPATH=str(tmp_path))
  assert done.returncode == 75, done.stderr
  assert done.stderr == 'stopped by SIGINT: run the same command again\n'


@pytest.mark.parametrize(
  'script',
  [
    file.name
    for file in sorted((commands.ROOT / 'launch').glob('*.py'))
    if 'cli.run(main' in file.read_text()
  ],
)
def test_a_script_handles_signals_before_its_imports(script, tmp_path):
  (tmp_path / 'sitecustomize.py').write_text(EARLY)
  done = commands.run(f'launch/{script}', PYTHONPATH=str(tmp_path))
  assert done.returncode == 75, done.stderr
  assert done.stderr == 'stopped by SIGINT: run the same command again\n'


# sitecustomize.py: Ctrl-C reaches a worker while Python starts it.
BORN = """
import os, signal, sys
if '--multiprocessing-fork' in sys.orig_argv:
  os.kill(os.getpid(), signal.SIGINT)
"""
WORKS = """
import os
from gpt1_jax.corpus.workers import Workers
print(*Workers(1).map(abs, [-1, -2]), flush=True)
os._exit(0)  # as a second Ctrl-C does
"""


def test_workers_neither_hear_ctrl_c_nor_speak_of_what_they_leave(tmp_path):
  (tmp_path / 'sitecustomize.py').write_text(BORN)
  paths = f'{tmp_path}{os.pathsep}{commands.ROOT}'
  done = commands.run('-c', WORKS, PYTHONPATH=paths)
  assert (done.stdout, done.stderr) == ('1 2\n', '')


STOPS = """
import atexit, os, signal, time
from gpt1_jax import cli
import jax
atexit.register(os.abort)  # as if objects that XLA still uses were freed
def main():
  os.kill(os.getpid(), signal.SIGTERM)
  time.sleep(100)
cli.run(main)
"""


HIDES = """
import os, signal, time
from gpt1_jax import cli
def main():
  try:
    os.kill(os.getpid(), signal.SIGTERM)
    time.sleep(100)
  except BaseException:
    raise ValueError('while checking equality of metadata fields') from None
cli.run(main)
"""


def test_a_stop_that_a_library_hides_is_found():
  """As XLA does where it compares trees with Python's own functions."""
  done = commands.run_forked(HIDES)
  assert done.returncode == 75
  assert done.stderr == 'stopped by SIGTERM: run the same command again\n'


IGNORES = """
import os, signal, time
from gpt1_jax import cli
class Ignores:
  def __del__(self):
    os.kill(os.getpid(), signal.NAME)
    time.sleep(100)
def main():
  thing = Ignores()
  del thing
  time.sleep(100)
cli.run(main)
"""


@pytest.mark.parametrize('name', ['SIGTERM', 'SIGINT'])
def test_a_stop_that_python_ignores_is_raised_again(name):
  done = commands.run_forked(IGNORES.replace('NAME', name))
  assert done.returncode == 75
  assert done.stderr == f'stopped by {name}: run the same command again\n'


def test_a_stopped_command_leaves_out_the_exit_of_python():
  done = commands.run_forked(STOPS)
  assert done.returncode == 75
  assert done.stderr == 'stopped by SIGTERM: run the same command again\n'


def test_a_lock_in_a_bucket_is_refused_while_its_holder_writes(tmp_path):
  """The object's protocol, on files, as if another host had written it."""
  path = tmp_path / lock.LOCK
  holder = lock._Stamp('run', path, 0.2)
  holder._mine = lock._Holder('elsewhere', 1, 'today', 'token')
  with holder, pytest.raises(UserError, match='process 1 on elsewhere runs'):
    lock._Stamp('run', path, 0.2).__enter__()
  assert not path.exists()
  path.write_text(holder._mine.text())  # of a process that was killed
  with lock._Stamp('run', path, 0.2):
    assert json.loads(path.read_text())['process'] == os.getpid()
  assert not path.exists()


def test_a_save_is_due_after_its_minutes(monkeypatch):
  now = 0.0
  monkeypatch.setattr(saving.time, 'monotonic', lambda: now)
  clock = saving._Clock(60.0, 5)
  now = 59.0
  assert not clock.due(6)
  now = 60.0
  assert clock.due(7)
  clock.restart(7)
  assert not clock.due(8)
  assert not saving._Clock(0.0, 5).due(6)


HANGS_UP = """
import os, signal, sys
signal.signal(signal.SIGHUP, signal.SIG_IGN)  # nohup
from gpt1_jax import cli, interrupts
def main():
  os.kill(os.getpid(), signal.SIGHUP)
  if not os.fork():  # as a worker
    os.kill(os.getpid(), signal.SIGHUP)
    os._exit(3)
  assert os.waitstatus_to_exitcode(os.wait()[1]) == 3
  interrupts.release()  # as a server does
  os.kill(os.getpid(), signal.SIGHUP)
  print('alive')
cli.run(main)
"""


def test_a_command_under_nohup_outlives_its_terminal():
  assert commands.succeed('-c', HANGS_UP) == 'alive\n'


# Sends SIGINT while a command imports jaxlib; tells if that raises anything.
IMPORTS = """
import os, runpy, signal, sys, time
class Finder:
  def find_spec(self, name, *_):
    if name == 'jaxlib._jax':
      try:
        os.kill(os.getpid(), signal.SIGINT)
        time.sleep(60)
      except BaseException:
        print('raised')
        raise
sys.meta_path.insert(0, Finder())
from gpt1_jax import interrupts
interrupts.install()
name, *sys.argv[1:] = sys.argv[1:]
runpy.run_module(f'gpt1_jax.{name}', run_name='__main__', alter_sys=True)
"""


@pytest.mark.parametrize(
  'words',
  [
    ('report', '--runs=models', '--output=report'),
    (
      'finetune',
      '--config=configs/finetune.py:cola',
      '--config.init_from=models/mini',
      '--config.data.path=glue',
      '--workdir=run',
    ),
  ],
)
def test_a_signal_during_the_import_of_jax_raises_nothing_there(words):
  done = commands.run('-c', IMPORTS, *words)
  assert done.returncode == 75, done.stderr
  assert done.stdout == ''
  assert done.stderr.splitlines()[-1].startswith('stopped by SIGINT')
