"""Lays out the zero-shot tasks of P §5 as plain text to be scored.

A candidate is tokenized as text inside a document is for pretraining, without
start or extract tokens. Its first token has no context and is never scored.

  cola         the sentence; every token but the first is scored
  sst2         the sentence and ` very`, then ` positive` or ` negative`; all
               tokens of that word are scored (chain rule)
  race, story_cloze
               article and question (or the story), then an answer; the tokens
               of the answer are scored
  dprd, wsc273 the text with a referent in place of the pronoun; the tokens
               after the referent are scored

A candidate longer than n_ctx loses tokens at its front, so that the question
and the scored tokens survive; a CoLA sentence loses its end.
"""

import dataclasses
import functools
import itertools
from collections.abc import Callable, Iterable, Sequence

import numpy as np

from gpt1_jax.tasks import definition, examples, table
from gpt1_jax.tasks.readers import sources
from gpt1_jax.tasks.zero_shot import winograd

Encode = Callable[[str], list[int]]
_SST2_PROMPT = ' very'
_SST2_ANSWERS = ('negative', 'positive')  # in the order of the labels


@dataclasses.dataclass(frozen=True)
class ZeroShotTask:
  """The metric of a task and the scores it is compared with, as fractions.

  Attributes:
    chance: score of random guessing.
    reference: state of the art before GPT-1 that P compares with; None if
      there is none.
  """

  name: str
  metric: str
  chance: float
  reference: float | None
  reference_source: str


_RACE = 'P Table 3, BiAttention MRU (9x): of nine models, P lists no single one'
# fmt: off
TASKS = {
  task.name: task
  for task in (
    ZeroShotTask('cola', 'matthews', 0.0, 0.350,
                 'P Table 4, single-task BiLSTM + ELMo + Attn'),
    ZeroShotTask('sst2', 'accuracy', 0.5, 0.932,
                 'P Table 4, Sparse byte mLSTM'),
    ZeroShotTask('race', 'accuracy', 0.25, 0.533, _RACE),
    ZeroShotTask('race_middle', 'accuracy', 0.25, 0.602, _RACE),
    ZeroShotTask('race_high', 'accuracy', 0.25, 0.503, _RACE),
    ZeroShotTask('story_cloze', 'accuracy', 0.5, 0.776,
                 'P Table 3, Hidden Coherence Model'),
    ZeroShotTask('dprd', 'accuracy', 0.5, 0.764,
                 'Peng et al. 2015 (not in the tables of P)'),
    ZeroShotTask('wsc273', 'accuracy', 0.5, None, 'none: P does not use it'),
  )
}
# fmt: on
RACE_HALVES = ('race_middle', 'race_high')


@dataclasses.dataclass(frozen=True, slots=True)
class Candidate:
  """A text whose last tokens are scored.

  Attributes:
    tokens: token ids, at most n_ctx.
    first_scored: index of the first scored token, at least 1.
  """

  tokens: list[int]
  first_scored: int

  @property
  def num_scored(self) -> int:
    return max(len(self.tokens) - self.first_scored, 0)


@dataclasses.dataclass(frozen=True)
class Questions:
  """One split of a task, ready to be scored.

  Attributes:
    task: a key of `TASKS`.
    split: 'train', 'dev' or 'test'.
    candidates: the C candidates of the first question, then of the next.
    labels: int64 [N], class or number of the right candidate.
    num_cut: number of questions that lost text to fit n_ctx.
    skipped_rows: one line for each row of the file that could not be used.
  """

  task: str
  split: str
  candidates: list[Candidate]
  labels: np.ndarray
  num_cut: int
  skipped_rows: Sequence[str] = ()

  @property
  def num_choices(self) -> int:
    return len(self.candidates) // len(self.labels)

  def joined(self, other: 'Questions') -> 'Questions':
    """Joins the middle and high halves of RACE."""
    return Questions(
      'race',
      self.split,
      self.candidates + other.candidates,
      np.concatenate([self.labels, other.labels]),
      self.num_cut + other.num_cut,
    )


def read(name: str, path: str, encode: Encode, n_ctx: int) -> list[Questions]:
  """Reads a task and lays out its candidates.

  Args:
    name: a key of `TASKS`.
    path: folder, zip or tar of the task or of several, or `tfds[:FOLDER]`.
    n_ctx: maximum length of a candidate, in tokens.

  Returns:
    CoLA: train (for the threshold), then dev. `race`: middle, then high.
    Otherwise one split: test if its labels are known, else dev.

  Raises:
    MissingError: a file is not found.
    UserError: a file is malformed.
  """
  encode = functools.lru_cache(4096)(encode)
  if name in winograd.TASKS:
    schemas, skipped = winograd.read(name, path)
    layouts = [_winograd_layout(schema, encode, n_ctx) for schema in schemas]
    labels = [schema.label for schema in schemas]
    return [_questions(name, 'test', layouts, labels, skipped)]
  layout = {'cola': _cola_layout, 'sst2': _sst2_layout}.get(
    name, _choice_layout
  )
  parts = []
  for task, split in _splits(name, path):
    rows = examples.read(task, path, split)
    if split == 'test' and rows[0].label is None:  # hidden labels
      split = 'dev'
      rows = examples.read(task, path, split)
    layouts = [layout(row, encode, n_ctx) for row in rows]
    labels = [int(row.label or 0) for row in rows]
    parts.append(_questions(task.name, split, layouts, labels))
  return parts


def _splits(name: str, path: str) -> list[tuple[definition.Task, str]]:
  """Returns the tasks of the table, with splits, that form a zero-shot task."""
  if name == 'cola':
    return [(table.TASKS['cola'], 'train'), (table.TASKS['cola'], 'dev')]
  if name == 'sst2':
    return [(table.TASKS['sst2'], 'dev')]
  names = RACE_HALVES if name == 'race' else (name,)
  parts = [table.TASKS[part] for part in names]
  tested = all(sources.has(part, path, 'test') for part in parts)
  return [(part, 'test' if tested else 'dev') for part in parts]


_Layout = tuple[list[Candidate], bool]  # True if a text was cut


def _questions(
  task: str,
  split: str,
  layouts: Iterable[_Layout],
  labels: Sequence[int],
  skipped_rows: Sequence[str] = (),
) -> Questions:
  candidates, cuts = zip(*layouts, strict=True)
  return Questions(
    task,
    split,
    [candidate for group in candidates for candidate in group],
    np.array(labels, np.int64),
    sum(cuts),
    tuple(skipped_rows),
  )


def _fit(
  contexts: Sequence[list[int]], scored: Sequence[list[int]], n_ctx: int
) -> _Layout:
  """Joins each context with its scored tokens, in at most n_ctx tokens.

  The scored part keeps its first n_ctx - 1 tokens. Every context keeps its last
  tokens, as many as fit beside the longest scored part.
  """
  kept = [part[: n_ctx - 1] for part in scored]
  room = n_ctx - max(map(len, kept))
  candidates = []
  for context, part in zip(contexts, kept, strict=True):
    tokens = context[-room:] + part
    candidates.append(Candidate(tokens, max(1, len(tokens) - len(part))))
  cut = any(len(part) >= n_ctx for part in scored)
  cut |= any(len(context) > room for context in contexts)
  return candidates, cut


def _cola_layout(row: examples.Example, encode: Encode, n_ctx: int) -> _Layout:
  tokens = encode(row.texts[0])
  return _fit([tokens[:1]], [tokens[1:]], n_ctx)


def _sst2_layout(row: examples.Example, encode: Encode, n_ctx: int) -> _Layout:
  # Words are encoded one by one, so these are the tokens of the whole text.
  context = encode(row.texts[0] + _SST2_PROMPT)
  return _fit([context] * 2, [encode(word) for word in _SST2_ANSWERS], n_ctx)


def _choice_layout(
  row: examples.Example, encode: Encode, n_ctx: int
) -> _Layout:
  context = [token for text in row.texts for token in encode(text)]
  answers = [encode(answer) for answer in row.choices]
  return _fit([context] * len(answers), answers, n_ctx)


def _winograd_layout(
  schema: winograd.Schema, encode: Encode, n_ctx: int
) -> _Layout:
  contexts, scored = [], []
  for before in schema.befores:
    tokens, context = encode(before + schema.after), encode(before)
    # Punctuation attached to the referent can change its last token: score
    # from the first token that differs.
    pairs = zip(tokens, context, strict=False)
    first = len(
      list(itertools.takewhile(lambda pair: pair[0] == pair[1], pairs))
    )
    contexts.append(tokens[:first])
    scored.append(tokens[first:])
  return _fit(contexts, scored, n_ctx)
