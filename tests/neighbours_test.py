"""Tokens are embedded by their neighbours: counts, PPMI and factors."""

import os
import subprocess
import sys

import numpy as np
import pytest
import scipy.sparse

from gpt1_jax.corpus import neighbours, shards
from tests.support import short_runs


@pytest.fixture(scope='module')
def train(tmp_path_factory):
  data = short_runs.prepare(tmp_path_factory.mktemp('data'))
  return shards.Tokens(data, 'train')


def expected_squares(tokens, vocab_size):
  """Returns the products of all rows of the table, from dense counts."""
  products_VV = np.zeros((vocab_size, vocab_size))
  for distance, weight in ((1, 1.0), (2, 0.5)):
    pairs_VV = np.zeros((vocab_size, vocab_size))
    np.add.at(pairs_VV, (tokens[:-distance], tokens[distance:]), 1)
    for table_VV in (pairs_VV, pairs_VV.T):
      smooth_V = table_VV.sum(0) ** 0.75
      independent_VV = np.outer(table_VV.sum(1), smooth_V / smooth_V.sum())
      seen = table_VV > 0
      ratio_VV = np.where(seen, table_VV, 1) / np.where(seen, independent_VV, 1)
      ppmi_VV = weight * np.maximum(np.log(ratio_VV), 0)
      products_VV += ppmi_VV @ ppmi_VV.T
  return products_VV


@pytest.mark.parametrize('block', [2**22, 1000])
def test_rows_become_the_factors_of_the_table(train, block, monkeypatch):
  """In 12 columns, as an eigendecomposition of dense counts has them."""
  monkeypatch.setattr(neighbours, '_BLOCK', block)
  monkeypatch.setattr(neighbours, '_ROUNDS', 200)
  vocab_size, width = 128, 12
  found_VD = neighbours.embed(train, vocab_size, width)
  tokens = train.read(0, train.num_tokens).astype(np.int64)
  values, vectors = np.linalg.eigh(expected_squares(tokens, vocab_size))
  rows_VD = vectors[:, : -width - 1 : -1] * values[: -width - 1 : -1] ** 0.25
  seen = np.bincount(tokens, minlength=vocab_size) > 0
  rows_VD = rows_VD - rows_VD.mean(0)
  rows_VD[~seen] = 0
  rows_VD[seen] /= np.linalg.norm(rows_VD[seen], axis=1, keepdims=True)
  assert 20 < seen.sum() < vocab_size
  np.testing.assert_allclose(
    found_VD @ found_VD.T, rows_VD @ rows_VD.T, atol=1e-4
  )
  assert found_VD.dtype == np.float32


def test_eight_rounds_find_nearly_the_best_factors(train):
  """Compares the sum of squared singular values with the largest possible."""
  vocab_size, width = 128, 12
  tokens = train.read(0, train.num_tokens).astype(np.int64)
  table_VV = expected_squares(tokens, vocab_size)
  best = np.linalg.eigvalsh(table_VV)[-width:].sum()
  pairs = []
  for distance in (1, 2):
    counts_VV = neighbours._count_pairs(
      train, vocab_size, distance, lambda doing: None
    )
    for each_VV in (counts_VV, counts_VV.T):
      ppmi_VV = neighbours._ppmi(scipy.sparse.csr_array(each_VV))
      pairs.append(ppmi_VV / distance)
  factors_VC = neighbours._factorise(
    scipy.sparse.hstack(pairs, format='csr'), width, lambda doing: None
  )
  assert 0.99 * best < ((factors_VC.T @ factors_VC) ** 2).sum() < 1.0001 * best


@pytest.mark.parametrize('width', [12, 32, 128])
def test_equal_text_gives_equal_rows(train, width):
  """Includes widths above the rank of the table."""
  said = []
  first_VD = neighbours.embed(train, 128, width, said.append)
  again_VD = neighbours.embed(train, 128, width)
  np.testing.assert_array_equal(first_VD, again_VD)
  rounds = [f'factorising neighbours, round {n} of 8' for n in range(1, 9)]
  assert said == ['counting neighbours'] * 2 + rounds


def test_the_number_of_threads_only_rounds(train, tmp_path):
  rows = []
  for threads in ('1', '2'):
    program = (
      'import pathlib, sys, numpy as np\n'
      'from gpt1_jax.corpus import neighbours, shards\n'
      'train = shards.Tokens(pathlib.Path(sys.argv[1]), "train")\n'
      'np.save(sys.argv[2], neighbours.embed(train, 128, 32))\n'
    )
    path = tmp_path / f'{threads}.npy'
    subprocess.run(
      [sys.executable, '-c', program, train.directory, path],
      env={**os.environ, 'OPENBLAS_NUM_THREADS': threads},
      check=True,
    )
    rows.append(np.load(path))
  np.testing.assert_allclose(*rows, atol=1e-3)


def test_rounding_cannot_flip_the_sign_of_a_column(train, monkeypatch):
  """Replaces QR by one that returns the other signs."""
  expected_VD = neighbours.embed(train, 128, 12)
  qr = np.linalg.qr
  monkeypatch.setattr(np.linalg, 'qr', lambda x: [-y for y in qr(x)])
  np.testing.assert_allclose(
    neighbours.embed(train, 128, 12), expected_VD, atol=1e-5
  )


class Text:
  """Tokens as `shards.Tokens` reads them."""

  def __init__(self, tokens):
    self.tokens = np.asarray(tokens, np.uint16)
    self.num_tokens = len(tokens)

  def read(self, start, count):
    return self.tokens[start : start + count]


@pytest.mark.parametrize('tokens', [[3] * 100, [1], [1, 2]])
def test_nothing_is_known_without_two_kinds_of_neighbours(tokens):
  np.testing.assert_array_equal(
    neighbours.embed(Text(tokens), 50, 8), np.zeros((50, 8))
  )


def test_a_vocabulary_smaller_than_the_width_leaves_columns_empty():
  tokens = np.random.default_rng(0).integers(0, 20, 2000)
  found_VD = neighbours.embed(Text(tokens), 20, 32)
  np.testing.assert_allclose(np.linalg.norm(found_VD, axis=1), 1, atol=1e-6)
  assert found_VD[:, 19].any()
  assert not found_VD[:, 20:].any()
