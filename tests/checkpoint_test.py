"""Tests which checkpoints are kept and which one is read."""

import jax.numpy as jnp
import numpy as np

from gpt1_jax.train import checkpoint
from tests.support import networks


def save(workdir, *, keep, keep_best, scores, first=1):
  checkpoints = checkpoint.Checkpoints(workdir, keep=keep, keep_best=keep_best)
  for step, best in enumerate(scores, start=first):
    state = {'params': {'w': jnp.full(3, float(step))}, 'moments': jnp.ones(3)}
    meta = checkpoint.CheckpointMeta(networks.GPT_CONFIG, f'tokenizer {step}')
    checkpoints.save(step, state, meta)
    if keep_best:
      checkpoints.rank(step, best)
  checkpoints.wait()
  checkpoints.close()


def test_the_best_is_kept_and_read(tmp_path):
  """Ranks by the score on dev; keeps the earlier of equals (C: train.py)."""
  save(tmp_path, keep=1, keep_best=True, scores=[0.5, 0.9, 0.9, 0.7])
  params, meta, step = checkpoint.read(tmp_path)
  assert step == 2
  assert meta == checkpoint.CheckpointMeta(networks.GPT_CONFIG, 'tokenizer 2')
  np.testing.assert_array_equal(params['w'], [2, 2, 2])
  assert checkpoint.read(tmp_path, best=False)[2] == 4


def test_the_best_outlives_a_restart(tmp_path):
  save(tmp_path, keep=1, keep_best=True, scores=[0.5, 0.9])
  save(tmp_path, keep=1, keep_best=True, scores=[0.7, 0.8], first=3)
  assert checkpoint.read(tmp_path)[2] == 2
  save(tmp_path, keep=1, keep_best=True, scores=[0.95], first=5)
  assert checkpoint.read(tmp_path)[2] == 5


def test_the_latest_are_kept_where_none_is_best(tmp_path):
  save(tmp_path, keep=2, keep_best=False, scores=[0, 0, 0])
  assert checkpoint.read(tmp_path)[2] == 3
  assert checkpoint.read(tmp_path, step=2)[2] == 2
