"""Batches windows of n_ctx tokens, as a pure function of the step.

Grain's index shuffle selects the windows of a step, and each host reads only
its rows of the batch. So resuming needs only the step, and the number of hosts
may change.
"""

from collections.abc import Sequence
from typing import TypedDict

import grain
import numpy as np

from gpt1_jax.corpus import shards
from gpt1_jax.errors import UserError


class WindowBatch(TypedDict):
  """A batch of windows, or (without the axis B) one window.

  Attributes:
    tokens: int32 [B, T].
    lm_weights: float32 [B, T], weight of each token as a target.
  """

  tokens: np.ndarray
  lm_weights: np.ndarray


class Windows:
  """The windows of one split of prepared shards.

  Attributes:
    num_windows: windows in an epoch.
    steps_per_epoch: batches that cover every window once. The last one is
      padded with weight 0 when reading in order, and completed by windows of
      the next epoch when shuffling.
  """

  def __init__(
    self,
    tokens: shards.Tokens,
    *,
    n_ctx: int,
    batch_size: int,
    cross_documents: bool,
    seed: int | None,
    rows: Sequence[int] | None = None,
  ):
    """Plans the windows; reads no token.

    Args:
      tokens: the split.
      n_ctx: tokens in a window.
      batch_size: windows in a global batch.
      cross_documents: True lets a window span documents; False pads the last
        window of each document with weight 0.
      seed: keys the permutation of each epoch (P §4.1: randomly sampled
        contiguous sequences). None reads once, in order, in windows that
        overlap by one token, so that each token but the first is a target
        exactly once.
      rows: the rows of each batch to read; None reads all.

    Raises:
      UserError: the split is shorter than one window.
    """
    self._source = _Source(tokens, n_ctx, cross_documents, int(seed is None))
    self._batch_size = batch_size
    self._rows = range(batch_size) if rows is None else rows
    self._shuffled = seed is not None
    self.num_windows = len(self._source)
    if not self.num_windows:
      raise UserError(
        f'{tokens.directory}: the {tokens.split} split holds no window of '
        f'{n_ctx} tokens; prepare more text or set a smaller model.n_ctx'
      )
    self.steps_per_epoch = -(-self.num_windows // batch_size)
    self._dataset = grain.MapDataset.source(self._source)
    if self._shuffled:
      self._dataset = self._dataset.shuffle(seed=seed).repeat()

  def batch(self, step: int) -> WindowBatch:
    """Reads this host's rows of the batch for `step`."""
    first = step * self._batch_size
    windows = [
      self._dataset[first + row]
      if self._shuffled or first + row < self.num_windows
      else self._source.padding()
      for row in self._rows
    ]
    return {
      'tokens': np.stack([window['tokens'] for window in windows]),
      'lm_weights': np.stack([window['lm_weights'] for window in windows]),
    }


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
    # A span is a document, or the whole split.
    if cross_documents:
      ends = np.array([tokens.num_tokens], np.int64)
    else:
      ends = tokens.document_ends
    starts = np.concatenate([[0], ends[:-1]]).astype(np.int64)
    lengths = ends - starts
    if overlap or not cross_documents:  # every token; the last window padded
      counts = -(-(lengths - overlap) // self._stride)
    else:  # whole windows only
      counts = lengths // n_ctx
    counts = np.maximum(counts, 0)
    self._starts, self._ends = starts, ends
    self._first_window = np.concatenate([[0], np.cumsum(counts)])

  def __len__(self) -> int:
    return int(self._first_window[-1])

  def __getitem__(self, i: int) -> WindowBatch:
    span = int(np.searchsorted(self._first_window, i, side='right')) - 1
    start = int(
      self._starts[span] + (i - self._first_window[span]) * self._stride
    )
    count = min(self._n_ctx, int(self._ends[span]) - start)
    window = self.padding()
    window['tokens'][:count] = self._tokens.read(start, count)
    window['lm_weights'][:count] = 1.0
    window['lm_weights'][0] = 0.0  # no token precedes it
    return window

  def padding(self) -> WindowBatch:
    """Returns a window without targets."""
    return {
      'tokens': np.zeros(self._n_ctx, np.int32),
      'lm_weights': np.zeros(self._n_ctx, np.float32),
    }
