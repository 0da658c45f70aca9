"""Tests which checkpoints are kept and which one is read."""

import asyncio
import contextlib
import dataclasses
from unittest import mock

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from orbax.checkpoint._src.path import temporary_paths

from gpt1_jax.train import checkpoint, initial_weights, sharding
from tests.support import networks, updates
from tests.support.meshes import make_mesh
from tests.support.refusals import assert_refused


def save(workdir, *, keep, keep_best, scores, first=1):
  checkpoints = checkpoint.Checkpoints(workdir, keep=keep, keep_best=keep_best)
  for step, best in enumerate(scores, start=first):
    weights = {'w': jnp.full(3, float(step))}
    state = {'params': weights, 'step': np.int32(step), 'moments': jnp.ones(3)}
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


def test_opening_waits_until_interrupted_saves_are_removed(
  tmp_path, monkeypatch
):
  """Otherwise a thread lists the folder while it is removed or renamed in."""
  save(tmp_path, keep=1, keep_best=False, scores=[0])
  interrupted = tmp_path / 'checkpoints/2.orbax-checkpoint-tmp'
  interrupted.mkdir()
  remove = temporary_paths.cleanup_temporary_paths

  async def remove_late(*args, **kwargs):
    await asyncio.sleep(0.3)
    await remove(*args, **kwargs)

  monkeypatch.setattr(temporary_paths, 'cleanup_temporary_paths', remove_late)
  with contextlib.closing(
    checkpoint.Checkpoints(tmp_path, keep=1, keep_best=False)
  ) as checkpoints:
    assert not interrupted.exists()
    assert checkpoints.latest_intact() == 1


def test_the_latest_are_kept_where_none_is_best(tmp_path):
  save(tmp_path, keep=2, keep_best=False, scores=[0, 0, 0])
  assert checkpoint.read(tmp_path)[2] == 3
  assert checkpoint.read(tmp_path, step=2)[2] == 2


NARROW = dataclasses.replace(networks.GPT_CONFIG, n_embd=32, n_head=2)


def test_a_fork_of_another_shape_names_every_setting_that_differs(tmp_path):
  save(tmp_path, keep=1, keep_best=False, scores=[0])
  meta = checkpoint.CheckpointMeta(NARROW, 'tokenizer 1')
  with assert_refused(
    'has n_head 4 (here 2), n_embd 64 (here 32); ',
    'give --config.model.n_head=4 --config.model.n_embd=64, or start from',
    start=f'--fork_from={tmp_path}: ',
  ):
    checkpoint.read_state(tmp_path, None, None, meta)
  lstm = checkpoint.CheckpointMeta(networks.LSTM_CONFIG, 'tokenizer 1')
  with assert_refused('its model is a gpt, config.model.kind is lstm; use'):
    checkpoint.read_state(tmp_path, None, None, lstm)


@pytest.mark.parametrize('task', [None, 'rte'])
def test_a_fork_needs_the_optimizer_of_pretraining(tmp_path, task):
  meta = checkpoint.CheckpointMeta(networks.GPT_CONFIG, 'same', task)
  state = {'step': np.int32(1), 'params': {'w': jnp.ones(3)}}
  if task:
    state['opt_state'] = {'w': jnp.ones(3)}
  checkpoints = checkpoint.Checkpoints(tmp_path, keep=1, keep_best=False)
  checkpoints.save(1, state, meta)
  checkpoints.close()
  new = dataclasses.replace(meta, task=None)
  with assert_refused(f'--config.init_from={tmp_path} starts from its weights'):
    checkpoint.read_state(tmp_path, None, None, new)


def test_initial_weights_of_another_shape_name_every_setting():
  config = updates.pretrain_config()
  words = mock.Mock(fingerprint='same')
  meta = checkpoint.CheckpointMeta(networks.GPT_CONFIG, 'same')
  with assert_refused('n_head 4 (here 2), n_embd 64 (here 32)', 'init_from'):
    initial_weights.check(config, NARROW, words, meta)


@pytest.mark.parametrize('divided', [False, True])
def test_a_run_resumes_with_the_optimizer_divided_or_not(divided, tmp_path):
  """The other way of `config.mesh.shard_optimizer` restores the same bits."""
  mesh = make_mesh(8, 1, 1)
  before, after = (
    updates.build(updates.UNROLLED, mesh, shard_optimizer=on).state
    for on in (divided, not divided)
  )
  rng = np.random.default_rng(0)
  state = jax.tree.map(
    lambda x: sharding.put(
      rng.normal(size=x.shape).astype(x.dtype), x.sharding
    ),
    before,
  )
  step = sharding.put(np.int32(1), before.step.sharding)
  state = state.replace(step=step)
  checkpoints = checkpoint.Checkpoints(tmp_path, keep=1, keep_best=False)
  meta = checkpoint.CheckpointMeta(updates.UNROLLED, 'tokenizer')
  checkpoints.save(1, state, meta)
  checkpoints.wait()
  found = checkpoints.restore(1, after)
  checkpoints.close()
  updates.assert_same_bits(found, state)
  moments = found.opt_state[1][0].mu['gpt']['tokens_embed']
  assert moments.sharding.is_fully_replicated == divided


@pytest.mark.parametrize(
  ('name', 'expected'),
  [
    ('runs/mini@400', ('runs/mini', 400)),
    ('runs/mini', ('runs/mini', None)),
    ('me@host/mini@7', ('me@host/mini', 7)),
    ('@5', ('@5', None)),
    ('runs/mini@\u00b2', ('runs/mini@\u00b2', None)),
    ('runs/mini@' + '9' * 5000, ('runs/mini@' + '9' * 5000, None)),
  ],
)
def test_a_run_may_name_a_step(name, expected):
  assert checkpoint.split_step(name) == expected
