"""Batches of windows: a function of the step that covers every token once."""

import numpy as np
import pytest

from gpt1_jax.corpus import local_engine, preparation, shards, windows
from gpt1_jax.errors import UserError
from tests.support import books as library


@pytest.fixture(scope='module')
def data(tmp_path_factory):
  folder = library.write_books(tmp_path_factory.mktemp('books'), range(24))
  output = tmp_path_factory.mktemp('data')
  engine = local_engine.LocalEngine(1)
  preparation.fill(output, library.settings([folder]), engine)
  return output


def test_windows_are_a_function_of_the_step(data):
  options = {
    'n_ctx': 32,
    'batch_size': 8,
    'seed': 1,
    'cross_documents': True,
  }
  whole = windows.Windows(shards.Tokens(data, 'train'), **options)
  halves = [
    windows.Windows(shards.Tokens(data, 'train'), rows=rows, **options)
    for rows in (range(4), range(4, 8))
  ]
  seen = []
  for step in range(whole.num_windows // 8):
    batch = whole.batch(step)
    parts = [half.batch(step)['tokens'] for half in halves]
    np.testing.assert_array_equal(batch['tokens'], np.concatenate(parts))
    assert (batch['lm_weights'][:, 0] == 0).all()
    assert (batch['lm_weights'][:, 1:] == 1).all()
    seen += [row.tobytes() for row in batch['tokens']]
  stream = shards.Tokens(data, 'train').read(0, whole.num_windows * 32)
  rows = {row.tobytes() for row in stream.astype(np.int32).reshape(-1, 32)}
  assert set(seen) <= rows
  assert len(seen) == whole.num_windows // 8 * 8
  assert len(set(seen)) > 0.9 * len(seen)


@pytest.mark.parametrize('cross_documents', [True, False])
def test_evaluation_counts_every_token_once(data, cross_documents):
  tokens = shards.Tokens(data, 'validation')
  split = windows.Windows(
    tokens,
    n_ctx=32,
    batch_size=8,
    cross_documents=cross_documents,
    seed=None,
  )
  targets = []
  for step in range(split.steps_per_epoch):
    batch = split.batch(step)
    targets += list(batch['tokens'][batch['lm_weights'] > 0])
  starts = [0] if cross_documents else [0, *tokens.document_ends[:-1]]
  stream = tokens.read(0, tokens.num_tokens)
  np.testing.assert_array_equal(targets, np.delete(stream, starts))


def test_a_split_shorter_than_a_window_is_refused(data):
  with pytest.raises(UserError, match='holds no window of 10000000 tokens'):
    windows.Windows(
      shards.Tokens(data, 'train'),
      n_ctx=10_000_000,
      batch_size=8,
      cross_documents=True,
      seed=1,
    )
