"""Embeds tokens by their neighbours in a text, before any training.

Counts which tokens stand one and two places before and after each token, takes
the positive pointwise mutual information (PPMI) of the counts, and factorises
it: tokens with the same neighbours get the same direction (Levy et al., 2015).
"""

import numpy as np
import scipy.sparse
import scipy.sparse.linalg

from gpt1_jax.corpus import shards

_WEIGHTS = {1: 1.0, 2: 0.5}  # of a neighbour's distance in tokens
_SMOOTHING = 0.75  # exponent of the neighbours' frequencies
_BLOCK = 2**22  # tokens counted at a time


def embed(train: shards.Tokens, vocab_size: int, width: int) -> np.ndarray:
  """Returns float32 [vocab_size, width]: rows of length 1, or 0 if unknown.

  The columns are sorted: the first ones hold most. At most vocab_size - 1 are
  not 0. Equal text gives equal rows on one machine; others round differently.
  """
  tables = []
  for distance, weight in _WEIGHTS.items():
    pairs_VV = _count_pairs(train, vocab_size, distance)
    for table_VV in (pairs_VV, pairs_VV.T):  # neighbours after and before
      tables.append(weight * _ppmi(scipy.sparse.csr_array(table_VV)))
  table_VN = scipy.sparse.hstack(tables, format='csr')
  rows_VD = np.zeros((vocab_size, width), np.float32)
  if not table_VN.nnz:  # such as a single token, repeated
    return rows_VD
  columns = min(width, vocab_size - 1)
  start_V = np.random.default_rng(0).normal(size=vocab_size).astype(np.float32)
  left_VC, values_C, _ = scipy.sparse.linalg.svds(
    table_VN, k=columns, v0=start_V, return_singular_vectors='u'
  )
  rows_VD[:, :columns] = left_VC[:, ::-1] * np.sqrt(values_C[::-1])
  rows_VD -= rows_VD.mean(0)
  rows_VD[table_VN.sum(1) == 0] = 0
  lengths_V = np.linalg.norm(rows_VD, axis=1, keepdims=True)
  return rows_VD / np.where(lengths_V > 0, lengths_V, 1)


def _count_pairs(
  train: shards.Tokens, vocab_size: int, distance: int
) -> scipy.sparse.csr_array:
  """Counts how often the token of a column follows that of a row."""
  counts_VV = scipy.sparse.csr_array((vocab_size, vocab_size), dtype=np.float32)
  for start in range(0, train.num_tokens - distance, _BLOCK):
    stop = min(start + _BLOCK + distance, train.num_tokens)
    tokens = train.read(start, stop - start).astype(np.int32)
    places = tokens[:-distance], tokens[distance:]
    ones = np.ones(len(places[0]), np.float32)
    counts_VV += scipy.sparse.coo_array(
      (ones, places), shape=(vocab_size, vocab_size)
    ).tocsr()
  return counts_VV


def _ppmi(counts_VV: scipy.sparse.csr_array) -> scipy.sparse.csr_array:
  """Returns max(0, log(p(neighbour | token) / p(neighbour))), sparse."""
  found = counts_VV.tocoo()
  token_V, neighbour_V = counts_VV.sum(1), counts_VV.sum(0) ** _SMOOTHING
  share_V = neighbour_V / max(neighbour_V.sum(), 1)
  row, column = found.coords
  information = np.log(found.data / (token_V[row] * share_V[column]))
  kept = information > 0
  return scipy.sparse.csr_array(
    (information[kept], (row[kept], column[kept])), shape=counts_VV.shape
  )
