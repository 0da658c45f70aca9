"""From examples to the token sequences of P §3.3, and from these to batches.

`build` lays the sequences out once; `Batches` groups them by length, so that
short tasks do not pay for a whole context and few shapes are compiled.
"""

import dataclasses
import functools
import itertools
from collections.abc import Callable, Iterable, Sequence
from typing import Protocol

import numpy as np

from gpt1_jax import errors
from gpt1_jax.tasks import examples as examples_lib, table

NUM_SPECIALS = 3  # start, delimiter, extract, after the vocabulary (P §3.3)
TRUNCATIONS = ('room', 'halves')


class Encoder(Protocol):
  """What `build` needs of a tokenizer."""

  vocab_size: int

  def encode(self, text: str) -> list[int]: ...


@dataclasses.dataclass(frozen=True)
class Features:
  """All sequences of a split end to end; example n owns C of them in a row.

  Attributes:
    tokens: int32, the sequences one after another.
    ends: int64[N * C], where each sequence ends in `tokens`.
    labels: int32[N], or float32[N] for regression; zeros where hidden.
    labelled: whether labels are known.
    num_choices: C, sequences an example: 1, 2 for similarity, the number of
      answers for choice.
    n_ctx: no sequence is longer.
    num_cut: examples of which some text was cut to fit.
  """

  tokens: np.ndarray
  ends: np.ndarray
  labels: np.ndarray
  labelled: bool
  num_choices: int
  n_ctx: int
  num_cut: int

  @property
  def num_examples(self) -> int:
    return len(self.labels)

  def lengths(self) -> np.ndarray:
    """int64[N], the longest sequence of each example."""
    each = np.diff(self.ends, prepend=0)
    return each.reshape(-1, self.num_choices).max(axis=1)

  def targets(self) -> np.ndarray:
    """int64[N], tokens of each example that the language model predicts."""
    each = np.diff(self.ends, prepend=0) - 1
    return each.reshape(-1, self.num_choices).sum(axis=1)

  def sequence(self, example: int, choice: int) -> np.ndarray:
    """int32 tokens of one sequence."""
    number = example * self.num_choices + choice
    start = self.ends[number - 1] if number else 0
    return self.tokens[start : self.ends[number]]


def build(
  task: table.Task,
  examples: Sequence[examples_lib.Example],
  tokenizer: Encoder,
  n_ctx: int,
  truncation: str = 'room',
) -> Features:
  """Lays out `examples` as REFERENCE §2 says (P §3.3).

  The specials follow the text's vocabulary: start = vocab_size, delimiter =
  vocab_size + 1, extract = vocab_size + 2.
  - classification: start text extract
  - entailment: start premise delimiter hypothesis extract
  - similarity: entailment's layout in both orders, C = 2
  - choice: start context question delimiter answer extract for each answer

  Truncation 'room': nothing is cut that fits. Else each text loses its end: a
  single text keeps n_ctx - 2 tokens; of a pair each is sure of n_ctx // 2 - 2
  tokens and takes what the other leaves of n_ctx - 3. For choice the pair is
  the context with its question, and the longest answer: all answers see the
  same context, only the context's end is cut and the question survives
  (unless it alone is longer than that half). 'halves': each of a pair keeps
  n_ctx // 2 - 2 tokens and no more, though the other be short (C: train.py).

  Raises:
    UserError: n_ctx below 8, no such truncation, or no examples.
  """
  if truncation not in TRUNCATIONS:
    raise errors.UserError(
      f'config.data.truncation is {truncation!r}: one of '
      + ', '.join(TRUNCATIONS)
    )
  if n_ctx < 8:
    raise errors.UserError(
      f'n_ctx is {n_ctx}: fine-tuning needs 8 positions or more'
    )
  if not examples:
    raise errors.UserError(f'task {task.name}: no examples')
  # Premises and contexts come several times in a row; lists are not changed.
  encode = functools.lru_cache(4096)(tokenizer.encode)
  halves = truncation == 'halves'
  parts: list[np.ndarray] = []
  num_cut = 0
  for example in examples:
    sequences, cut = _lay_out(
      task.kind, example, encode, tokenizer.vocab_size, n_ctx, halves
    )
    parts += [np.asarray(sequence, np.int32) for sequence in sequences]
    num_cut += cut
  labelled = all(example.label is not None for example in examples)
  return Features(
    tokens=np.concatenate(parts),
    ends=np.cumsum([len(part) for part in parts], dtype=np.int64),
    labels=np.array(
      [example.label if labelled else 0 for example in examples],
      np.float32 if task.regression else np.int32,
    ),
    labelled=labelled,
    num_choices=len(parts) // len(examples),
    n_ctx=n_ctx,
    num_cut=num_cut,
  )


class Batches:
  """Batches as a pure function of the step; every example once an epoch."""

  def __init__(
    self,
    features: Features,
    batch_size: int,
    seed: int = 0,
    lengths: Iterable[int] = (),
    train: bool = False,
    rows: Sequence[int] | None = None,
    drop_last: bool = False,
  ):
    """Plans the batches; nothing is padded before it is asked for.

    Args:
      features: the split.
      batch_size: B, examples a batch over all hosts.
      seed: of the order (training only).
      lengths: widths T that may be compiled; those at or above n_ctx stand
        for n_ctx, which is always one of them.
      train: shuffle anew each epoch; else file order within each width.
      rows: which rows of each batch are laid out here; None: all.
      drop_last: leave out, each epoch, the examples that do not fill a last
        batch (training only; C: train.py), instead of padding it.

    Raises:
      UserError: batch_size is below 1, no lengths fit, or no batch is full and
        drop_last leaves none.
    """
    if batch_size < 1:
      raise errors.UserError(
        f'config.data.batch_size is {batch_size}: at least 1'
      )
    lengths = list(lengths)
    if any(length < 1 for length in lengths):
      raise errors.UserError(f'config.data.lengths is {lengths}: all above 0')
    n_ctx = features.n_ctx
    self.features = features
    count = features.num_examples
    if train and drop_last:
      count -= count % batch_size
    if not count:
      raise errors.UserError(
        f'config.data.batch_size is {batch_size} and data.drop_last is on: '
        f'{features.num_examples} examples fill no batch'
      )
    self.steps_per_epoch = -(-count // batch_size)
    self._widths = np.array(
      sorted({*(min(length, n_ctx) for length in lengths), n_ctx})
    )
    # Number of the smallest width that holds the example.
    self._groups = np.searchsorted(self._widths, features.lengths())
    self._batch_size, self._seed, self._train = batch_size, seed, train
    self._count = count  # examples of an epoch
    self._targets = features.targets()
    self._rows = list(range(batch_size) if rows is None else rows)
    self._plan: tuple[int, np.ndarray] = (-1, np.empty(0))

  def batch(self, step: int) -> dict[str, np.ndarray]:
    """Rows of this host in the batch at `step`, counted over all epochs.

    Returns:
      tokens int32[B, C, T]; weights float32[B, C, T], 1 where the token is a
      target of the language model (all but the first of a sequence, specials
      included); extract int32[B, C], position of the extract token; label
      int32[B] or float32[B]; weight float32[B], 0 for padding; index int32[B],
      number of the example, -1 for padding; targets float32[B], in each row how
      many targets an example of the whole batch, all hosts', has on average.
      T is one for all hosts: the smallest width that holds the whole batch.
    """
    epoch, position = divmod(step, self.steps_per_epoch)
    indices = self._order(epoch)[position]
    present = indices[indices >= 0]
    width = self._widths[self._groups[present].max()]
    targets = self._targets[present].mean()
    indices = indices[self._rows]
    features, C = self.features, self.features.num_choices
    shape = (len(indices), C, int(width))
    tokens, weights = np.zeros(shape, np.int32), np.zeros(shape, np.float32)
    extract = np.zeros(shape[:2], np.int32)
    for row, choice in itertools.product(range(len(indices)), range(C)):
      if indices[row] < 0:
        continue
      sequence = features.sequence(indices[row], choice)
      tokens[row, choice, : len(sequence)] = sequence
      weights[row, choice, 1 : len(sequence)] = 1
      extract[row, choice] = len(sequence) - 1
    real = indices >= 0
    label = np.where(real, features.labels[indices], 0)
    return {
      'tokens': tokens,
      'lm_weights': weights,
      'extract': extract,
      'label': label.astype(features.labels.dtype),
      'example_weight': real.astype(np.float32),
      'index': indices.astype(np.int32),
      'targets': np.full(len(indices), targets, np.float32),
    }

  def shapes(self, epoch: int = 0) -> list[tuple[int, int, int]]:
    """The different [B, C, T] of an epoch on this host, narrowest first."""
    order = self._order(epoch)
    groups = np.where(order >= 0, self._groups[order], 0).max(axis=1)
    rows = len(order[0, self._rows])
    C = self.features.num_choices
    return [(rows, C, int(T)) for T in self._widths[np.unique(groups)]]

  def _order(self, epoch: int) -> np.ndarray:
    """int64[steps, B] of example numbers, -1 for padding."""
    if not self._train:
      epoch = 0
    if self._plan[0] == epoch:
      return self._plan[1]
    order = np.arange(self.features.num_examples)
    if self._train:
      rng = np.random.default_rng((self._seed, epoch))
      order = rng.permutation(order)[: self._count]
    # A stable sort keeps the shuffle within a width: batches are as mixed as
    # they can be while only those at a border hold two widths.
    order = order[np.argsort(self._groups[order], kind='stable')]
    padding = self.steps_per_epoch * self._batch_size - self._count
    order = np.pad(order, (0, padding), constant_values=-1)
    order = order.reshape(self.steps_per_epoch, self._batch_size)
    if self._train:
      order = rng.permutation(order)
    self._plan = (epoch, order)
    return order


def _lay_out(
  kind: str,
  example: examples_lib.Example,
  encode: Callable[[str], list[int]],
  vocab_size: int,
  n_ctx: int,
  halves: bool,
) -> tuple[list[list[int]], bool]:
  """The sequences of one example, and whether anything was cut."""
  start, delimiter, extract = range(vocab_size, vocab_size + 3)
  first, *others = [encode(text) for text in example.texts]
  if kind == 'classification':
    cut = len(first) > n_ctx - 2
    return [[start, *first[: n_ctx - 2], extract]], cut
  if kind == 'choice':
    question = others[0] if others else []
    answers = [encode(answer) for answer in example.choices]
    before = len(first) + len(question)
    longest = max(map(len, answers))
    room, answer_room = _share(before, longest, n_ctx, halves)
    head = first[: max(0, room - len(question))] + question
    head = head[:room]
    pairs = [(head, answer[:answer_room]) for answer in answers]
  else:
    second = others[0]
    before, longest = len(first), len(second)
    room, answer_room = _share(before, longest, n_ctx, halves)
    pairs = [(first[:room], second[:answer_room])]
    if kind == 'similarity':
      pairs.append(pairs[0][::-1])
  sequences = [[start, *a, delimiter, *b, extract] for a, b in pairs]
  return sequences, before > room or longest > answer_room


def _share(
  first: int, second: int, n_ctx: int, halves: bool
) -> tuple[int, int]:
  """Tokens kept of two texts so that they fit beside three specials."""
  room, half = n_ctx - 3, n_ctx // 2 - 2
  if halves:
    return min(first, half), min(second, half)
  second = min(second, max(half, room - first))
  return min(first, room - second), second
