"""The zero-shot tasks of P §5 as plain text, and which tokens are scored.

Sequences are what pretraining sees inside a document: the tokens of the text
and no others, neither start nor extract. A window of pretraining may begin
anywhere in a text, and so does a sequence: its first token stands at position
0, comes after nothing, and is never scored.

  cola         the sentence; all its tokens but the first
  sst2         the sentence and ` very`, then ` positive` or ` negative`; the
               tokens of that word, all of them (the chain rule)
  race, story_cloze
               article and question (or the story), then an answer; the
               tokens of the answer
  dprd, wsc273 the text with a referent in the pronoun's place; the tokens
               after the referent
What does not fit n_ctx is cut at the front, so that question, answer and what
is scored survive; a CoLA sentence at its end.
"""

import dataclasses
import functools
from collections.abc import Callable, Sequence

import numpy as np

from gpt1_jax import errors
from gpt1_jax.tasks import (
  definition,
  examples as examples_lib,
  features as features_lib,
  table,
)
from gpt1_jax.tasks.readers import sources
from gpt1_jax.tasks.zero_shot import winograd

Encode = Callable[[str], list[int]]
_VERY, _WORDS = ' very', ('negative', 'positive')  # in the order of the labels


@dataclasses.dataclass(frozen=True)
class Task:
  """What a score of a task is held against; fractions, not percent.

  Attributes:
    name: as on the command line.
    metric: of `tasks/metrics.py`.
    chance: the score of guessing.
    reference: the state of the art that P compares with; None: there is none.
    reference_source: where the figure is from.
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
    Task('cola', 'matthews', 0.0, 0.350,
         'P Table 4, single-task BiLSTM + ELMo + Attn'),
    Task('sst2', 'accuracy', 0.5, 0.932, 'P Table 4, Sparse byte mLSTM'),
    Task('race', 'accuracy', 0.25, 0.533, _RACE),
    Task('race_middle', 'accuracy', 0.25, 0.602, _RACE),
    Task('race_high', 'accuracy', 0.25, 0.503, _RACE),
    Task('story_cloze', 'accuracy', 0.5, 0.776,
         'P Table 3, Hidden Coherence Model'),
    Task('dprd', 'accuracy', 0.5, 0.764,
         'Peng et al. 2015 (not in the tables of P)'),
    Task('wsc273', 'accuracy', 0.5, None, 'none: P does not use it'),
  )
}
# fmt: on


@dataclasses.dataclass(frozen=True)
class Questions:
  """One split of a task, ready to be scored.

  Attributes:
    task: a name of `TASKS`.
    split: 'train', 'dev' or 'test'.
    sequences: C token lists a question, one question after another.
    firsts: of each sequence, where the scored tokens begin; they end with it.
    labels: int64 [N], class or number of the right answer.
    cut: questions of which some text was cut to fit.
    odd: a line for each row that could not be used.
  """

  task: str
  split: str
  sequences: list[list[int]]
  firsts: list[int]
  labels: np.ndarray
  cut: int
  odd: tuple[str, ...] = ()

  @property
  def num_choices(self) -> int:
    return len(self.sequences) // len(self.labels)


def missing(name: str, path: str) -> str | None:
  """Why a task cannot be run, or None: what was looked for, in one line."""
  try:
    if name in winograd.TASKS:
      if not winograd.has(name, path):
        winograd.read(name, path)
      return None
    for task, split in _wanted(name, path):
      if not sources.has(task, path, split):
        _, rows = sources.read(task, path, split)  # says what it looked for
        next(rows, None)  # TFDS does so when it is read
        return f'task {name}: {path} has no {split} split'
  except errors.UserError as error:
    return str(error)
  return None


def read(name: str, path: str, encode: Encode, n_ctx: int) -> list[Questions]:
  """Reads a task and lays it out.

  CoLA is train (for the threshold) and dev, `race` its two halves; the others
  are one. The test set is taken where its labels are known, else dev.

  Args:
    name: of `TASKS`.
    path: as of `examples.read`, or the folder that holds the tasks'.
    encode: text → ids.
    n_ctx: no sequence is longer.

  Raises:
    UserError: files not found or not as they should be.
  """
  encode = functools.lru_cache(4096)(encode)
  if name in winograd.TASKS:
    schemas, odd = winograd.read(name, path)
    laid_out = [_winograd(schema, encode, n_ctx) for schema in schemas]
    labels = [schema.label for schema in schemas]
    return [_questions(name, 'test', laid_out, labels, odd)]
  found = []
  for task, split in _wanted(name, path):
    rows = examples_lib.read(task, path, split)
    if split == 'test' and rows[0].label is None:  # hidden
      split = 'dev'
      rows = examples_lib.read(task, path, split)
    lay_out = {'cola': _cola, 'sst2': _sst2}.get(name, _choice)
    found.append(
      _questions(
        task.name,
        split,
        [lay_out(row, encode, n_ctx) for row in rows],
        [row.label for row in rows],
      )
    )
  return found


def pack(
  questions: Sequence[Questions], n_ctx: int
) -> tuple[features_lib.Features, np.ndarray]:
  """All sequences end to end, each an example of its own; and their firsts.

  So tasks with two answers and with four share the shapes that are compiled.
  """
  sequences = [s for part in questions for s in part.sequences]
  firsts = np.array([f for part in questions for f in part.firsts], np.int64)
  packed = features_lib.Features(
    tokens=np.concatenate([np.asarray(s, np.int32) for s in sequences]),
    ends=np.cumsum([len(s) for s in sequences], dtype=np.int64),
    labels=None,
    num_choices=1,
    n_ctx=n_ctx,
    num_cut=sum(part.cut for part in questions),
  )
  return packed, firsts


def _wanted(name: str, path: str) -> list[tuple[definition.Task, str]]:
  """The tasks and splits that a zero-shot task is made of."""
  if name == 'cola':
    return [(table.TASKS['cola'], 'train'), (table.TASKS['cola'], 'dev')]
  if name == 'sst2':
    return [(table.TASKS['sst2'], 'dev')]
  names = ('race_middle', 'race_high') if name == 'race' else (name,)
  parts = [table.TASKS[part] for part in names]
  tested = all(sources.has(part, path, 'test') for part in parts)
  return [(part, 'test' if tested else 'dev') for part in parts]


_LaidOut = tuple[list[list[int]], list[int], bool]  # sequences, firsts, cut


def _questions(
  name: str,
  split: str,
  laid_out: Sequence[_LaidOut],
  labels: Sequence[int],
  odd: Sequence[str] = (),
) -> Questions:
  return Questions(
    task=name,
    split=split,
    sequences=[s for sequences, _, _ in laid_out for s in sequences],
    firsts=[f for _, firsts, _ in laid_out for f in firsts],
    labels=np.array(labels, np.int64),
    cut=sum(cut for _, _, cut in laid_out),
    odd=tuple(odd),
  )


def _fit(
  befores: Sequence[list[int]], scored: Sequence[list[int]], n_ctx: int
) -> _LaidOut:
  """Texts and what is scored after each, cut to n_ctx.

  The scored part keeps n_ctx - 1 tokens at most, its first ones; what comes
  before keeps its last ones, as many as fit beside the longest scored part.
  """
  kept = [part[: n_ctx - 1] for part in scored]
  room = n_ctx - max(map(len, kept))
  sequences = [
    before[-room:] + part for before, part in zip(befores, kept, strict=True)
  ]
  firsts = [
    max(1, len(sequence) - len(part))
    for sequence, part in zip(sequences, kept, strict=True)
  ]
  cut = any(len(part) >= n_ctx for part in scored)
  cut |= any(len(before) > room for before in befores)
  return sequences, firsts, cut


def _cola(row: examples_lib.Example, encode: Encode, n_ctx: int) -> _LaidOut:
  tokens = encode(row.texts[0])
  return _fit([tokens[:1]], [tokens[1:]], n_ctx)


def _sst2(row: examples_lib.Example, encode: Encode, n_ctx: int) -> _LaidOut:
  # Words are encoded one by one, so that these are the tokens of the whole.
  before = encode(row.texts[0] + _VERY)
  return _fit([before] * 2, [encode(word) for word in _WORDS], n_ctx)


def _choice(row: examples_lib.Example, encode: Encode, n_ctx: int) -> _LaidOut:
  before = [token for text in row.texts for token in encode(text)]
  answers = [encode(answer) for answer in row.choices]
  return _fit([before] * len(answers), answers, n_ctx)


def _winograd(schema: winograd.Schema, encode: Encode, n_ctx: int) -> _LaidOut:
  befores, rests = [], []
  for before in schema.befores:
    whole, head = encode(before + schema.after), encode(before)
    # They part early only where punctuation that is attached to the referent
    # makes another token of its end.
    first = 0
    while (
      first < len(head) and head[first : first + 1] == whole[first : first + 1]
    ):
      first += 1
    befores.append(whole[:first])
    rests.append(whole[first:])
  return _fit(befores, rests, n_ctx)
