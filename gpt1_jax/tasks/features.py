"""Turns the examples of a split into the token sequences of P §3.3."""

import dataclasses
import functools
from collections.abc import Callable, Sequence
from typing import Protocol

import numpy as np

from gpt1_jax.errors import UserError
from gpt1_jax.tasks.definition import Task
from gpt1_jax.tasks.examples import Example


class Encoder(Protocol):
  """The attributes of a tokenizer that `build` uses."""

  vocab_size: int

  def encode(self, text: str) -> list[int]: ...


@dataclasses.dataclass(frozen=True)
class Features:
  """Holds the token sequences of N examples end to end, C per example.

  Attributes:
    tokens: int32, the sequences one after another.
    ends: int64[N * C], end of each sequence in `tokens`.
    labels: int32[N], float32[N] for regression; None if hidden.
    num_choices: C, sequences per example: 1, 2 for similarity, the number of
      answers for choice.
    n_ctx: upper limit of a sequence's length.
    num_cut: number of examples with a text that was cut to fit.
    lost_share: share of those examples' tokens that was cut off.
    label_dtype: type of the labels; hidden labels become zeros of this type in
      a batch.
    first_targets: int64[N * C], position of the first token of each sequence
      that the language model predicts; None for the second token.
  """

  tokens: np.ndarray
  ends: np.ndarray
  labels: np.ndarray | None
  num_choices: int
  n_ctx: int
  num_cut: int
  lost_share: float = 0.0
  label_dtype: type[np.generic] = np.int32
  first_targets: np.ndarray | None = None

  @property
  def num_examples(self) -> int:
    """Number of examples, N."""
    return len(self.ends) // self.num_choices

  def lengths(self) -> np.ndarray:
    """Returns int64[N], the longest sequence of each example."""
    each = np.diff(self.ends, prepend=0)
    return each.reshape(-1, self.num_choices).max(axis=1)

  def num_targets(self) -> np.ndarray:
    """Returns int64[N], tokens that the language model predicts."""
    first = 1 if self.first_targets is None else self.first_targets
    each = np.diff(self.ends, prepend=0) - first
    return each.reshape(-1, self.num_choices).sum(axis=1)

  def first_target(self, example: int, choice: int) -> int:
    """Returns the position of the first target of one sequence."""
    if self.first_targets is None:
      return 1
    return self.first_targets[example * self.num_choices + choice]

  def cut_notice(self) -> str:
    """Says how many examples were cut, and by how much; '' if none was."""
    if not self.num_cut:
      return ''
    return (
      f'{self.num_cut:,} of {self.num_examples:,} examples are cut to the '
      f'context of {self.n_ctx} tokens and lose {self.lost_share:.0%} of their '
      'text'
    )

  def sequence(self, example: int, choice: int) -> np.ndarray:
    """Returns the int32 tokens of one sequence."""
    number = example * self.num_choices + choice
    start = self.ends[number - 1] if number else 0
    return self.tokens[start : self.ends[number]]


def build(
  task: Task,
  examples: Sequence[Example],
  tokenizer: Encoder,
  n_ctx: int,
  truncation: str = 'room',
) -> Features:
  """Lays out examples as token sequences (P §3.3, docs/reference.md §2).

  The specials follow the vocabulary: start = vocab_size, delimiter =
  vocab_size + 1, extract = vocab_size + 2.
  - classification: start text extract
  - entailment: start premise delimiter hypothesis extract
  - similarity: the layout of entailment in both orders, C = 2
  - choice: start context question delimiter answer extract, for each answer

  Texts that do not fit lose their end. Truncation 'room' cuts only then: a
  single text keeps n_ctx - 2 tokens; each text of a pair keeps at least
  n_ctx // 2 - 2 tokens and whatever the other leaves of n_ctx - 3. For choice
  the pair is the context with its question, and the longest answer: all
  answers see the same context, and the question survives unless it alone
  exceeds its half. Truncation 'halves' cuts each text of a pair to
  n_ctx // 2 - 2 tokens even if the other is short (C: train.py).

  Raises:
    UserError: n_ctx is below 8, or there are no examples.
  """
  if n_ctx < 8:
    raise UserError(f'n_ctx is {n_ctx}: fine-tuning needs at least 8 positions')
  if not examples:
    raise UserError(f'task {task.name}: no examples')
  # Premises and contexts repeat in consecutive examples; callers never modify
  # the arrays.
  encode = functools.lru_cache(4096)(tokenizer.encode)
  start, delimiter, extract = (tokenizer.vocab_size + i for i in range(3))
  parts: list[np.ndarray] = []
  num_cut = num_lost = num_tokens = 0
  for example in examples:
    if task.kind == 'classification':
      text = encode(example.texts[0])
      count, lost = len(text), max(0, len(text) - (n_ctx - 2))
      bodies = [text[: n_ctx - 2]]
    else:
      pairs, count, lost = _pairs(
        task.kind, example, encode, n_ctx, truncation == 'halves'
      )
      bodies = [[*a, delimiter, *b] for a, b in pairs]
    parts += [np.array([start, *body, extract], np.int32) for body in bodies]
    if lost:
      num_cut, num_lost = num_cut + 1, num_lost + lost
      num_tokens += count
  labels = [example.label for example in examples]
  dtype: type[np.generic] = np.float32 if task.regression else np.int32
  return Features(
    tokens=np.concatenate(parts),
    ends=np.cumsum([len(part) for part in parts], dtype=np.int64),
    labels=None if None in labels else np.array(labels, dtype),
    num_choices=len(parts) // len(examples),
    n_ctx=n_ctx,
    num_cut=num_cut,
    lost_share=num_lost / max(1, num_tokens),
    label_dtype=dtype,
  )


def _pairs(
  kind: str,
  example: Example,
  encode: Callable[[str], list[int]],
  n_ctx: int,
  halves: bool,
) -> tuple[list[tuple[list[int], list[int]]], int, int]:
  """Returns an example's pairs of texts as token ids, cut to fit.

  Also returns the number of its tokens and how many of them are cut; for
  choice, both count only the longest answer.
  """
  first, second, *_ = [*map(encode, example.texts), []]
  if kind == 'choice':
    answers = [encode(answer) for answer in example.choices]
    before, longest = len(first) + len(second), max(map(len, answers))
    room, answer_room = _rooms(before, longest, n_ctx, halves)
    head = (first[: max(0, room - len(second))] + second)[:room]
    pairs = [(head, answer[:answer_room]) for answer in answers]
  else:
    before, longest = len(first), len(second)
    room, answer_room = _rooms(before, longest, n_ctx, halves)
    pairs = [(first[:room], second[:answer_room])]
    if kind == 'similarity':
      pairs.append(pairs[0][::-1])
  lost = max(0, before - room) + max(0, longest - answer_room)
  return pairs, before + longest, lost


def _rooms(
  first: int, second: int, n_ctx: int, halves: bool
) -> tuple[int, int]:
  """Returns how many tokens of two texts fit beside three specials."""
  room, half = n_ctx - 3, n_ctx // 2 - 2
  if halves:
    return min(first, half), min(second, half)
  second = min(second, max(half, room - first))
  return min(first, room - second), second
