"""Tests when a run saves, and that its files are synced to disk."""

import os
from unittest import mock

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from gpt1_jax.errors import RunError
from gpt1_jax.train import checkpoint, saving
from gpt1_jax.train.step import TrainState
from tests.support import checkpoints, commands, short_runs
from tests.support.small_runs import rows


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
  tmp_path, may_skip
):
  done = commands.run_forked(
    NOT_FINITE,
    *short_runs.options(short_runs.prepare(tmp_path), tmp_path / 'run'),
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


def test_a_state_that_is_not_finite_is_not_saved(tmp_path):
  bad = TrainState(jnp.int32(3), {'w': jnp.array([1.0, jnp.inf])}, jnp.zeros(2))
  run = mock.MagicMock(workdir=str(tmp_path))
  saver = saving.Saver(None, run, mock.Mock(), 0)
  with pytest.raises(RunError, match='after update 3 are not finite'):
    saver.save(3, bad)


def test_a_checkpoint_is_flushed_to_the_disk(tmp_path, monkeypatch):
  flushed, fsync = set(), os.fsync

  def note(descriptor):
    fsync(descriptor)
    flushed.add(os.fstat(descriptor).st_ino)

  monkeypatch.setattr(os, 'fsync', note)
  with checkpoints.opened(tmp_path) as saved:
    saved.save(4, checkpoints.state(4), checkpoints.META)
  folder = tmp_path / 'checkpoints'
  found = [folder, *folder.rglob('*')]
  assert len(found) > 10
  missed = [path for path in found if path.stat().st_ino not in flushed]
  assert {path.name for path in missed} <= {checkpoints.COMMIT}


FILLS = """
import contextlib, resource, sys
import jax.numpy as jnp
from gpt1_jax import cli
from gpt1_jax.train import checkpoint
from tests.support import networks

folder = sys.argv.pop()

def main():
  arrays = {str(i): jnp.full(60_000, float(i)) for i in range(40)}
  state = {'params': arrays, 'step': jnp.asarray(1)}
  meta = checkpoint.CheckpointMeta(networks.GPT_CONFIG, 'tokenizer')
  saved = checkpoint.Checkpoints(folder, keep=2, keep_best=False)
  with contextlib.closing(saved):
    saved.save(1, state, meta)
    saved.wait()
    resource.setrlimit(resource.RLIMIT_FSIZE, (300_000, 300_000))
    saved.save(2, state, meta)
cli.run(main)
"""


def test_threads_of_a_save_on_a_full_disk_are_silent(tmp_path):
  """Many arrays: TensorStore still writes some when others have failed."""
  done = commands.run_forked(FILLS, tmp_path / 'run')
  assert done.returncode == 1
  (line,) = done.stderr.splitlines()
  assert line.startswith(f'error: {tmp_path}/run/checkpoints: the checkpoint')
  assert 'cannot be saved: the disk is full; free some space' in line
  assert checkpoint.read(str(tmp_path / 'run')).step == 1


DRAWS = """
import pathlib, resource, sys
from gpt1_jax import cli
from gpt1_jax.train import boards

folder = pathlib.Path(sys.argv.pop())

def main():
  shown = boards.Boards(folder, 0, None)
  resource.setrlimit(resource.RLIMIT_FSIZE, (10_000, 10_000))
  for step in range(1_000):
    shown.scalars(step, {'loss': 1.0, 'learning_rate': 1e-3})
cli.run(main)
"""


def test_curves_on_a_full_disk_stop_the_run(tmp_path):
  """A writer in a thread would end silently, and training wait for it."""
  done = commands.run_forked(DRAWS, tmp_path)
  assert done.returncode == 1
  (line,) = done.stderr.splitlines()
  assert line == (
    f'error: File too large: {tmp_path}/tensorboard; free some disk space and '
    'run the command again'
  )
  (file,) = (tmp_path / 'tensorboard').iterdir()
  assert file.stat().st_size == 10_000
