"""When a run saves its state, and that it saves none that is not finite."""

import jax
import numpy as np
import pytest

from gpt1_jax.train import checkpoint, saving
from tests.support import commands, short_runs
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
