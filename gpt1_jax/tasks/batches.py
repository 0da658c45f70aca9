"""Groups the examples of a split into batches of similar length.

Short examples are not padded to the whole context, and few shapes are compiled.
"""

import dataclasses
import itertools
from collections.abc import Iterator, Sequence
from typing import TypedDict

import numpy as np

from gpt1_jax.errors import UserError
from gpt1_jax.tasks.features import Features


class TaskBatch(TypedDict):
  """A batch of B examples with C sequences of T tokens each, on this host.

  Keys:
    tokens: int32[B, C, T], padded with 0.
    lm_weights: float32[B, C, T], 1 at the language model's targets. In
      fine-tuning: all tokens but the first of a sequence, specials included.
    extract: int32[B, C], position of the extract token.
    label: int32[B], or float32[B] for regression; 0 if hidden.
    example_weight: float32[B], 0 for padding.
    index: int32[B], number of the example, -1 for padding.
    mean_targets: float32[B], targets per example, averaged over the whole
      batch of all hosts; the same number in every row.
  """

  tokens: np.ndarray
  lm_weights: np.ndarray
  extract: np.ndarray
  label: np.ndarray
  example_weight: np.ndarray
  index: np.ndarray
  mean_targets: np.ndarray


@dataclasses.dataclass(frozen=True)
class BatchSettings:
  """Settings for how `Batches` groups and orders examples.

  Attributes:
    batch_size: B, examples in a batch over all hosts.
    seed: seed of the order in training.
    lengths: widths T that may be compiled; those at or above n_ctx mean
      n_ctx, which is always one of them.
    train: True shuffles in each epoch; False keeps the file's order
      within each width.
    drop_last: True drops an incomplete last batch of a training epoch (C:
      train.py); False pads it.
  """

  batch_size: int
  seed: int = 0
  lengths: Sequence[int] = ()
  train: bool = False
  drop_last: bool = False


class Batches:
  """Makes batches as a pure function of the step; no repeats in an epoch."""

  def __init__(
    self,
    features: Features,
    settings: BatchSettings,
    host_rows: Sequence[int] | None = None,
  ):
    """Plans the batches; `batch` pads them when it is called.

    Args:
      features: the split.
      settings: see `BatchSettings`.
      host_rows: rows of each batch that this host holds; None for all.

    Raises:
      UserError: drop_last leaves no batch.
    """
    size = settings.batch_size
    count = features.num_examples
    if settings.train and settings.drop_last:
      count -= count % size
    if not count:
      raise UserError(
        f'config.data.batch_size is {size} and config.data.drop_last is on: '
        f'{features.num_examples} examples fill no batch; give '
        f'--config.data.batch_size={features.num_examples} or less'
      )
    self.features = features
    self.steps_per_epoch = -(-count // size)
    self._settings = settings
    self._count = count  # examples in an epoch
    self._width_N = padded_lengths(
      features.lengths(), settings.lengths, features.n_ctx
    )
    self._num_targets = features.num_targets()
    self._host_rows = list(range(size) if host_rows is None else host_rows)
    self._cached_order: tuple[int, np.ndarray] = (-1, np.empty(0))

  def notices(self) -> Iterator[str]:
    """Yields lines on cut texts, and on a batch larger than an epoch."""
    if notice := self.features.cut_notice():
      yield notice
    size, count = self._settings.batch_size, self._count
    if self._settings.train and count < size:
      fewer = -(-count // 4)
      updates = -(-count // fewer)
      yield (
        f'{count} examples do not fill a batch of {size}, so an epoch is one '
        f'update; --config.data.batch_size={fewer}, in another --workdir, '
        f'makes it {updates}'
      )

  def batch(self, step: int) -> TaskBatch:
    """Returns this host's rows of a batch.

    Args:
      step: counted over all epochs.

    Returns:
      The batch; its T is the smallest width that holds the whole batch, the
      same on all hosts.
    """
    epoch, position = divmod(step, self.steps_per_epoch)
    indices = self._order(epoch)[position]
    present = indices[indices >= 0]
    width = self._width_N[present].max()
    mean_targets = self._num_targets[present].mean()
    indices = indices[self._host_rows]
    real = indices >= 0
    features, C = self.features, self.features.num_choices
    tokens = np.zeros((len(indices), C, width), np.int32)
    lm_weights = np.zeros(tokens.shape, np.float32)
    extract = np.zeros(tokens.shape[:2], np.int32)
    for row, choice in itertools.product(np.flatnonzero(real), range(C)):
      sequence = features.sequence(indices[row], choice)
      tokens[row, choice, : len(sequence)] = sequence
      first = features.first_target(indices[row], choice)
      lm_weights[row, choice, first : len(sequence)] = 1
      extract[row, choice] = len(sequence) - 1
    label = np.zeros(len(indices), features.label_dtype)
    if features.labels is not None:
      label[real] = features.labels[indices[real]]
    return {
      'tokens': tokens,
      'lm_weights': lm_weights,
      'extract': extract,
      'label': label,
      'example_weight': real.astype(np.float32),
      'index': indices.astype(np.int32),
      'mean_targets': np.full(len(indices), mean_targets, np.float32),
    }

  def _order(self, epoch: int) -> np.ndarray:
    """Returns int64[steps, B] of example numbers, -1 for padding."""
    settings = self._settings
    if not settings.train:
      epoch = 0
    if self._cached_order[0] == epoch:
      return self._cached_order[1]
    order = np.arange(self.features.num_examples)
    if settings.train:
      rng = np.random.default_rng((settings.seed, epoch))
      order = rng.permutation(order)[: self._count]
    # A stable sort keeps the shuffled order within a width. Only batches at the
    # border between two widths hold both.
    order = order[np.argsort(self._width_N[order], kind='stable')]
    shape = (self.steps_per_epoch, settings.batch_size)
    padding = shape[0] * shape[1] - self._count
    order = np.pad(order, (0, padding), constant_values=-1).reshape(shape)
    if settings.train:
      order = rng.permutation(order)
    self._cached_order = (epoch, order)
    return order


def padded_lengths(
  lengths: Sequence[int] | np.ndarray, widths: Sequence[int], n_ctx: int
) -> np.ndarray:
  """Returns the smallest of `widths`, cut to n_ctx, that holds each length."""
  allowed = np.unique(np.minimum([*widths, n_ctx], n_ctx))
  return allowed[np.searchsorted(allowed, lengths)]
