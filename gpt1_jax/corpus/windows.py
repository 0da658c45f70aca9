"""Batches of windows of n_ctx tokens, as a function of the step.

`batch(step)` needs no history: Grain's index shuffle says which windows the
step takes, and this host reads only its rows of them. So resuming is restoring
the step, and the number of hosts may change.
"""

from collections.abc import Sequence

import grain
import numpy as np

from gpt1_jax.corpus import shards
from gpt1_jax.errors import UserError


class Windows:
  """Windows of one split of prepared shards.

  Attributes:
    num_windows: windows of an epoch.
    steps_per_epoch: batches that hold every window once: the last is filled
      with weight 0 when reading in order, and with the next epoch's windows
      when shuffled.
  """

  def __init__(
    self,
    path: str,
    split: str,
    *,
    n_ctx: int,
    batch_size: int,
    cross_documents: bool,
    seed: int | None,
    rows: Sequence[int] | None = None,
  ):
    """Opens the shards.

    Args:
      path: a directory written by `prepare`.
      split: 'train' or 'validation'.
      n_ctx: tokens a window.
      batch_size: windows of a global batch.
      cross_documents: whether a window may span documents; if not, the last
        window of a document is padded with weight 0.
      seed: keys the permutation of each epoch (P §4.1: randomly sampled
        contiguous sequences); None reads in order, once, with windows that
        overlap by one token, so that every token but the first is a target
        exactly once.
      rows: which rows of each batch are read here; None: all.

    Raises:
      UserError: the split is shorter than one window.
    """
    self._source = _Source(
      shards.Tokens(path, split), n_ctx, cross_documents, int(seed is None)
    )
    self._batch_size = batch_size
    self._rows = range(batch_size) if rows is None else rows
    self._shuffled = seed is not None
    self.num_windows = len(self._source)
    if not self.num_windows:
      raise UserError(
        f'{path}: the {split} split holds no window of {n_ctx} tokens; '
        'prepare more text or set a smaller model.n_ctx'
      )
    self.steps_per_epoch = -(-self.num_windows // batch_size)
    self._dataset = grain.MapDataset.source(self._source)
    if self._shuffled:
      self._dataset = self._dataset.shuffle(seed=seed).repeat()

  def batch(self, step: int) -> dict[str, np.ndarray]:
    """This host's rows: tokens int32 [rows, T], weights float32 [rows, T]."""
    rows = []
    for row in self._rows:
      i = step * self._batch_size + row
      if self._shuffled or i < self.num_windows:
        rows.append(self._dataset[i])
      else:
        rows.append(self._source.padding())
    return {name: np.stack([r[name] for r in rows]) for name in rows[0]}


class _Source:
  """Random access to the windows of a split, for Grain."""

  def __init__(
    self,
    tokens: shards.Tokens,
    n_ctx: int,
    cross_documents: bool,
    overlap: int,
  ):
    self._tokens = tokens
    self._n_ctx = n_ctx
    self._stride = n_ctx - overlap
    self._partial = bool(overlap) or not cross_documents
    if cross_documents:
      ends = np.array([tokens.num_tokens], np.int64)
    else:
      ends = tokens.document_ends
    starts = np.concatenate([[0], ends[:-1]]).astype(np.int64)
    lengths = ends - starts
    if self._partial:  # all tokens, the last window padded
      counts = -(-(lengths - overlap) // self._stride)
    else:  # whole windows only
      counts = lengths // n_ctx
    counts = np.maximum(counts, 0)
    self._starts, self._ends = starts, ends
    self._first_window = np.concatenate([[0], np.cumsum(counts)])

  def __len__(self) -> int:
    return int(self._first_window[-1])

  def __getitem__(self, i: int) -> dict[str, np.ndarray]:
    span = int(np.searchsorted(self._first_window, i, side='right')) - 1
    start = int(
      self._starts[span] + (i - self._first_window[span]) * self._stride
    )
    count = min(self._n_ctx, int(self._ends[span]) - start)
    row = self.padding()
    row['tokens'][:count] = self._tokens.read(start, count)
    row['lm_weights'][:count] = 1.0
    row['lm_weights'][0] = 0.0  # nothing comes before it
    return row

  def padding(self) -> dict[str, np.ndarray]:
    return {
      'tokens': np.zeros(self._n_ctx, np.int32),
      'lm_weights': np.zeros(self._n_ctx, np.float32),
    }
