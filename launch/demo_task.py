"""The demo's task, made from the topics that pretraining did not see.

Given a passage, which of two goes on with it: the true continuation, or words
from another topic? `topics` reads what was held out, `make_task` makes rows.
"""

import json
import pathlib
import random
from collections.abc import Collection, Mapping, Sequence

from gpt1_jax.corpus import cleaning, documents, shards
from gpt1_jax.errors import UserError

CORPUS = 'builtin:python-reference'
# Topics held out, by name: the same in every version of Python. A split by
# hash is another one in each, and the score hangs on which topics it gets.
TRAIN = (
  'await', 'callable-types', 'calls', 'class', 'comparisons', 'compound',
  'exceptions', 'global', 'imaginary', 'integers', 'lists', 'numbers',
  'numeric-types', 'strings', 'unary', 'yield',
)  # fmt: skip
DEV = ('power', 'subscriptions', 'try', 'typesmapping', 'typesmodules')
HELD_OUT = TRAIN + DEV
# Lengths in words (white-space separated, after cleaning).
CONTEXT_WORDS = 24
ANSWER_WORDS = 12
STRIDE = 6  # between the starts of two examples
WRONG_ANSWERS = 2  # examples made from one context, each with another


Topics = Mapping[str, str]  # name -> cleaned text


def topics(path: pathlib.Path) -> tuple[Topics, Topics, set[str]]:
  """Held-out topics of train and of dev, and the lines of all others.

  Topics quote one another at length; the lines tell what pretraining saw.
  """
  split = {row.source: row.split for row in shards.read_documents(path)}
  parts: dict[str, dict[str, str]] = {'train': {}, 'dev': {}}
  seen: set[str] = set()
  for document in documents.read_all([CORPUS], 'text'):
    text = cleaning.clean(cleaning.paragraphs(document.text()))
    if split[document.source] == 'validation':
      name = document.source.removeprefix(f'{CORPUS}#')
      parts['dev' if name in DEV else 'train'][name] = text
    else:
      seen.update(line.strip() for line in text.split('\n'))
  return parts['train'], parts['dev'], seen


def make_task(
  train: Topics, dev: Topics, seen: Collection[str]
) -> tuple[list[Mapping], list[Mapping]]:
  """Rows (text, choices, label) of train and of dev.

  A passage of CONTEXT_WORDS, its true next ANSWER_WORDS, and as many words
  from another topic of the same part. Lines in `seen`, lines that stand in
  several topics and lines that are not prose are left out.

  Args:
    train, dev: of `topics`.
    seen: lines of other texts.
  """
  passages = _passages({**train, **dev}, seen)
  rng = random.Random(0)
  rows = []
  for part in (train, dev):
    found = {name: passages[name] for name in part if name in passages}
    if len(found) < 2:
      raise UserError('too few topics are held out to make a task of them')
    rows.append(_rows(found, rng))
  return rows[0], rows[1]


def _passages(
  held_out: Topics, seen: Collection[str]
) -> dict[str, list[tuple[str, str]]]:
  """Topic -> (context, answer) pairs, from runs of unseen prose."""
  seen = set(seen)
  out = {}
  # The shortest first: what a long topic quotes belongs to the short one.
  for name in sorted(held_out, key=lambda n: (len(held_out[n]), n)):
    runs: list[list[str]] = [[]]
    for line in map(str.strip, held_out[name].split('\n')):
      if not _is_prose(line):
        continue
      if line in seen:
        runs.append([])
        continue
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
) -> list[Mapping]:
  """Examples of one part of the topics, in random order."""
  rows = []
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


def write_task(path: pathlib.Path, train: list, dev: list) -> None:
  """train.jsonl and dev.jsonl."""
  path.mkdir(parents=True, exist_ok=True)
  for name, rows in (('train', train), ('dev', dev)):
    lines = ''.join(json.dumps(row) + '\n' for row in rows)
    (path / f'{name}.jsonl').write_text(lines, encoding='utf-8')
