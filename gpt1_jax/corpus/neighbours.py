"""Embeds tokens by their neighbours in a text, before any training.

Counts which tokens stand one and two places before and after each token, takes
the positive pointwise mutual information (PPMI) of the counts, and factorises
it: tokens with the same neighbours get the same direction (Levy et al., 2015).
"""

from collections.abc import Callable

import numpy as np
import scipy.sparse

from gpt1_jax.corpus import shards

_WEIGHTS = {1: 1.0, 2: 0.5}  # of a neighbour's distance in tokens
_SMOOTHING = 0.75  # exponent of the neighbours' frequencies
_BLOCK = 2**22  # tokens counted at a time
_ROUNDS = 8  # of the factorisation
_ROUNDING = 1e-5  # of squares in float32, beside the largest

Tick = Callable[[str], None]  # see `embed`


def embed(
  train: shards.Tokens,
  vocab_size: int,
  width: int,
  tick: Tick = lambda doing: None,
) -> np.ndarray:
  """Returns float32 [vocab_size, width]: rows of length 1, or 0 if unknown.

  At most vocab_size columns are not 0. Equal text gives equal rows; machines
  and numbers of threads round differently.

  Args:
    tick: is called with what is done next, equally often for equal text.
  """
  tables = []
  for distance, weight in _WEIGHTS.items():
    pairs_VV = _count_pairs(train, vocab_size, distance, tick)
    for table_VV in (pairs_VV, pairs_VV.T):  # neighbours after and before
      tables.append(weight * _ppmi(scipy.sparse.csr_array(table_VV)))
  table_VN = scipy.sparse.hstack(tables, format='csr')
  rows_VD = np.zeros((vocab_size, width), np.float32)
  known_V = table_VN.sum(1) > 0
  columns = min(width, vocab_size)
  rows_VD[:, :columns] = _factorise(table_VN, columns, tick)
  rows_VD -= rows_VD.mean(0)
  rows_VD[~known_V] = 0
  lengths_V = np.linalg.norm(rows_VD, axis=1, keepdims=True)
  return rows_VD / np.where(lengths_V > 0, lengths_V, 1)


def _factorise(
  table_VN: scipy.sparse.csr_array, columns: int, tick: Tick
) -> np.ndarray:
  """Returns left singular vectors times the roots of their singular values.

  Uses subspace iteration (Halko et al., 2011), as scikit-learn's
  randomized_svd does, which cannot stop between rounds. Fixes the sign of each
  column: otherwise rounding could flip it.
  """
  shape = (table_VN.shape[0], columns)
  basis_VC = np.random.default_rng(0).normal(size=shape).astype(np.float32)
  table_NV = table_VN.T.tocsr()
  for done in range(_ROUNDS):
    tick(f'factorising neighbours, round {done + 1} of {_ROUNDS}')
    basis_VC, above_CC = np.linalg.qr(table_VN @ (table_NV @ basis_VC))
    basis_VC *= np.copysign(1, np.diag(above_CC))
  right_NC = table_NV @ basis_VC
  squares_C, turn_CC = np.linalg.eigh(right_NC.T @ right_NC)
  squares_C[squares_C < _ROUNDING * squares_C[-1]] = 0
  return basis_VC @ (turn_CC * squares_C**0.25) @ turn_CC.T


def _count_pairs(
  train: shards.Tokens, vocab_size: int, distance: int, tick: Tick
) -> scipy.sparse.csr_array:
  """Counts how often the token of a column follows that of a row."""
  counts_VV = scipy.sparse.csr_array((vocab_size, vocab_size), dtype=np.float32)
  for start in range(0, train.num_tokens - distance, _BLOCK):
    tick('counting neighbours')
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
