"""Builds the demo's choice task from topics that pretraining did not see.

The task: which of two texts continues a passage? One is the true continuation,
the other comes from another topic.
"""

import json
import pathlib
import random
from collections.abc import Collection, Mapping, Sequence
from typing import TypedDict

from gpt1_jax.corpus import cleaning, documents, inputs, shards
from gpt1_jax.errors import UserError

CORPUS = 'builtin:python-reference'
# Topics to hold out. They are fixed by name because the score depends on them,
# and a split by hash would select others for each version of Python.
TRAIN = (
  'await', 'callable-types', 'calls', 'class', 'comparisons', 'compound',
  'exceptions', 'global', 'imaginary', 'integers', 'lists', 'numbers',
  'numeric-types', 'strings', 'unary', 'yield',
)  # fmt: skip
DEV = ('power', 'subscriptions', 'try', 'typesmapping', 'typesmodules')
HELD_OUT = TRAIN + DEV
# Lengths in whitespace-separated words, after cleaning.
CONTEXT_WORDS = 24
ANSWER_WORDS = 12
STRIDE = 6  # words between the starts of two passages
WRONG_ANSWERS = 2  # examples per passage, each with another wrong answer

Topics = Mapping[str, str]  # name -> cleaned text


class Row(TypedDict):
  """An example for configs/demo_task.py; `label` is the index of the answer."""

  text: str
  choices: list[str]
  label: int


def topics(path: pathlib.Path) -> tuple[Topics, Topics, set[str]]:
  """Reads the held-out train and dev topics, and the lines of all others.

  Topics quote one another at length. The lines of the other topics tell which
  held-out text pretraining has seen. `path` holds the shards that `prepare`
  wrote.
  """
  split = {row.source: row.split for row in shards.read_documents(path)}
  parts: dict[str, dict[str, str]] = {'train': {}, 'dev': {}}
  seen: set[str] = set()
  for document in documents.read_all(inputs.find([CORPUS]), 'text'):
    text = cleaning.clean(cleaning.paragraphs(document.text()))
    if split[document.source] == 'validation':
      name = document.source.removeprefix(f'{CORPUS}#')
      parts['dev' if name in DEV else 'train'][name] = text
    else:
      seen.update(line.strip() for line in text.split('\n'))
  return parts['train'], parts['dev'], seen


def make_task(
  train: Topics, dev: Topics, seen: Collection[str]
) -> tuple[list[Row], list[Row]]:
  """Builds the train and dev examples.

  Each example has a passage of CONTEXT_WORDS, the ANSWER_WORDS that follow it,
  and ANSWER_WORDS from another topic of the same split. Skips lines that
  pretraining saw, lines that occur in several topics and lines that are not
  prose.

  Raises:
    UserError: a split has fewer than two topics with enough prose.
  """
  passages = _passages({**train, **dev}, seen)
  rng = random.Random(0)
  rows = []
  for part in (train, dev):
    found = {name: passages[name] for name in part if name in passages}
    if len(found) < 2:
      raise UserError('too few topics are held out to build a task')
    rows.append(_rows(found, rng))
  return rows[0], rows[1]


def _passages(
  held_out: Topics, seen: Collection[str]
) -> dict[str, list[tuple[str, str]]]:
  """Maps topics to (context, answer) pairs from unseen, consecutive prose."""
  seen = set(seen)
  out = {}
  # Shortest topic first: shared lines belong to the shortest topic.
  for name in sorted(held_out, key=lambda n: (len(held_out[n]), n)):
    runs: list[list[str]] = [[]]
    for line in map(str.strip, held_out[name].split('\n')):
      if line in seen and _is_prose(line):
        runs.append([])
      elif _is_prose(line):
        seen.add(line)
        runs[-1] += line.split()
    length = CONTEXT_WORDS + ANSWER_WORDS
    pairs = [
      (
        ' '.join(words[start : start + CONTEXT_WORDS]),
        ' '.join(words[start + CONTEXT_WORDS : start + length]),
      )
      for words in runs
      for start in range(0, len(words) - length + 1, STRIDE)
    ]
    if pairs:
      out[name] = pairs
  return out


def _is_prose(line: str) -> bool:
  words = line.split()
  letters = sum(word.isalpha() for word in words)
  return len(words) >= 6 and letters >= 0.55 * len(words)


def _rows(
  passages: Mapping[str, Sequence[tuple[str, str]]], rng: random.Random
) -> list[Row]:
  """Builds the examples of one split, in random order."""
  rows: list[Row] = []
  for name, pairs in passages.items():
    others = [other for other in passages if other != name]
    for context, answer in pairs:
      for _ in range(WRONG_ANSWERS):
        _, wrong = rng.choice(passages[rng.choice(others)])
        label = rng.randrange(2)
        choices = [answer, wrong] if label == 0 else [wrong, answer]
        rows.append({'text': context, 'choices': choices, 'label': label})
  rng.shuffle(rows)
  return rows


def write_task(
  path: pathlib.Path, train: Sequence[Row], dev: Sequence[Row]
) -> None:
  """Writes train.jsonl and dev.jsonl."""
  path.mkdir(parents=True, exist_ok=True)
  for name, rows in (('train', train), ('dev', dev)):
    lines = ''.join(json.dumps(row) + '\n' for row in rows)
    (path / f'{name}.jsonl').write_text(lines, encoding='utf-8')
