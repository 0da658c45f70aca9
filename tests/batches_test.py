"""Tests that batches hold every example exactly once, at the least width."""

import numpy as np
import pytest
from hypothesis import given, settings, strategies as st

from gpt1_jax.task_settings import OwnTask
from gpt1_jax.tasks import batches, examples, features, table
from tests.support.refusals import assert_refused
from tests.support.toy_tokenizers import DigitTokenizer, digits

START, DELIMITER, EXTRACT = 10, 11, 12
LABELLED = {'labels': ('a', 'b'), 'metrics': ('accuracy',)}
CLASSIFICATION = table.resolve(OwnTask(kind='classification', **LABELLED))
ENTAILMENT = table.resolve(OwnTask(kind='entailment', **LABELLED))


def batched(built, size, *settings, host_rows=None, **more):
  plan = batches.BatchSettings(size, *settings, **more)
  return batches.Batches(built, plan, host_rows)


def test_a_batch_by_hand():
  rows = [
    examples.Example(('1', '2 3'), (), 1),
    examples.Example(('4 5 6', ''), (), 0),
  ]
  built = features.build(ENTAILMENT, rows, DigitTokenizer(), 16)
  batch = batched(built, 3, lengths=(4, 8)).batch(0)
  expected = {
    'tokens': [
      [[START, 1, DELIMITER, 2, 3, EXTRACT, 0, 0]],
      [[START, 4, 5, 6, DELIMITER, EXTRACT, 0, 0]],
      [[0] * 8],
    ],
    'lm_weights': [[[0, 1, 1, 1, 1, 1, 0, 0]]] * 2 + [[[0] * 8]],
    'extract': [[5], [5], [0]],
    'label': [1, 0, 0],
    'example_weight': [1, 1, 0],
    'index': [0, 1, -1],
    'mean_targets': [5, 5, 5],
  }
  assert {key: value.tolist() for key, value in batch.items()} == expected
  for key in ('tokens', 'extract', 'label', 'index'):
    assert batch[key].dtype == np.int32
  for key in ('lm_weights', 'example_weight', 'mean_targets'):
    assert batch[key].dtype == np.float32


def numbered(lengths, n_ctx=64):
  """Classification examples of the given text lengths, labels 0 and 1."""
  rows = [
    examples.Example((digits(length, n),), (), n % 2)
    for n, length in enumerate(lengths)
  ]
  return features.build(CLASSIFICATION, rows, DigitTokenizer(), n_ctx)


@settings(max_examples=60, deadline=None)
@given(
  lengths=st.lists(st.integers(0, 70), min_size=1, max_size=40),
  per_host=st.integers(1, 4),
  hosts=st.sampled_from([1, 2, 4]),
  epoch=st.integers(0, 3),
  seed=st.integers(0, 5),
  train=st.booleans(),
)
def test_every_example_once_whatever_the_hosts(
  lengths, per_host, hosts, epoch, seed, train
):
  built = numbered(lengths)
  size = per_host * hosts
  widths = (16, 32, 512)
  whole = batched(built, size, seed, widths, train)
  parts = [
    batched(built, size, seed, widths, train, host_rows=range(size)[i::hosts])
    for i in range(hosts)
  ]
  assert whole.steps_per_epoch == -(-len(lengths) // size)
  assert {part.steps_per_epoch for part in parts} == {whole.steps_per_epoch}
  seen = []
  first = epoch * whole.steps_per_epoch
  for step in range(first, first + whole.steps_per_epoch):
    batch = whole.batch(step)
    shares = [part.batch(step) for part in parts]
    for key, value in batch.items():
      for i, share in enumerate(shares):
        np.testing.assert_array_equal(share[key], value[i::hosts])
    real = batch['index'][batch['example_weight'] > 0]
    assert (batch['index'][batch['example_weight'] == 0] == -1).all()
    seen += real.tolist()
    width = batch['tokens'].shape[-1]
    longest = built.lengths()[real].max()
    assert width == min(w for w in (16, 32, 64) if w >= longest)
    np.testing.assert_array_equal(batch['label'][: len(real)], real % 2)
  assert sorted(seen) == list(range(len(lengths)))


@pytest.mark.parametrize('hosts', [1, 2])
def test_drop_last_drops_an_incomplete_batch(hosts):
  """Drops other examples each epoch, and none in evaluation (C: train.py)."""
  built = numbered([n % 50 for n in range(22)])
  widths = (16, 32)
  left_out = []
  for epoch in range(3):
    seen = []
    for host in range(hosts):
      split = batched(
        built, 8, 1, widths, True, True, host_rows=range(8)[host::hosts]
      )
      assert split.steps_per_epoch == 2
      for step in range(2):
        batch = split.batch(2 * epoch + step)
        assert batch['example_weight'].all()
        seen += batch['index'].tolist()
    assert len(set(seen)) == len(seen) == 16
    left_out.append(frozenset(range(22)) - frozenset(seen))
  assert len(set(left_out)) == 3
  evaluated = batched(built, 8, 1, widths, drop_last=True)
  assert evaluated.steps_per_epoch == 3
  with assert_refused('22 examples fill no batch', 'batch_size=22 or less'):
    batched(built, 32, 1, widths, True, drop_last=True)


def test_a_batch_larger_than_the_training_set_is_noticed():
  built = numbered([n % 50 for n in range(30)])
  (notice,) = batched(built, 32, 1, (64,), True).notices()
  assert notice == (
    '30 examples do not fill a batch of 32, so an epoch is one update; '
    '--config.data.batch_size=8, in another --workdir, makes it 4'
  )
  assert batched(built, 8, 1, (64,), True).steps_per_epoch == 4
  assert not [*batched(built, 30, 1, (64,), True).notices()]
  assert not [*batched(built, 32, 1, (64,)).notices()]  # evaluation


@pytest.mark.parametrize('train', [True, False])
def test_order_is_a_function_of_seed_and_epoch(train):
  built = numbered([n % 50 for n in range(100)])

  def epoch(number, seed):
    """Reads an epoch backwards: no batch depends on those before it."""
    split = batched(built, 8, seed, (32,), train=train)
    steps = split.steps_per_epoch
    each = [split.batch(number * steps + step) for step in range(steps)]
    for step in reversed(range(steps)):
      again = split.batch(number * steps + step)
      for key, value in each[step].items():
        np.testing.assert_array_equal(again[key], value)
    return [batch['index'].tolist() for batch in each]

  first = epoch(0, 1)
  assert first == epoch(0, 1)
  assert (first == epoch(7, 1)) == (first == epoch(0, 2)) == (not train)
  if not train:
    assert (np.diff(first[0]) > 0).all()


def test_short_examples_get_narrow_batches():
  built = numbered([5] * 90 + [60] * 10)
  split = batched(built, 10, 0, (8, 16, 64), train=True)
  widths = sorted(
    split.batch(step)['tokens'].shape[-1]
    for step in range(split.steps_per_epoch)
  )
  assert widths == [8] * 9 + [64]
  # The batches are shuffled, so their widths come in no fixed order.
  places = {
    next(
      step
      for step in range(10)
      if split.batch(epoch * 10 + step)['tokens'].shape[-1] == 64
    )
    for epoch in range(6)
  }
  assert len(places) > 2
