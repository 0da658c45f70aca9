"""The demo's task, made from the topics that pretraining did not see.

Given a passage, which of two goes on with it: the true continuation, or words
from another topic? `topics` reads what was held out, `make_task` makes rows.
"""

import json
import pathlib
import random
from collections.abc import Collection, Mapping, Sequence

from gpt1_jax.data import corpus, shards, text as text_lib
from gpt1_jax.errors import UserError

CORPUS = 'builtin:python-reference'
# By name, the same in every version of Python. A split by hash is another one
# in each, and what the task is worth hangs on which long topics it gets.
HELD_OUT = (
  'await', 'callable-types', 'calls', 'class', 'comparisons', 'compound',
  'exceptions', 'global', 'imaginary', 'integers', 'lists', 'numbers',
  'numeric-types', 'power', 'strings', 'subscriptions', 'try', 'typesmapping',
  'typesmodules', 'unary', 'yield',
)  # fmt: skip
# Lengths in words (white-space separated, after cleaning).
CONTEXT_WORDS = 24
ANSWER_WORDS = 12
STRIDE = 6  # between the starts of two examples
WRONG_ANSWERS = 2  # examples made from one context, each with another
DEV_SHARE = 1 / 3


def topics(
  path: pathlib.Path,
) -> tuple[dict[str, str], set[str]]:
  """Held-out topics (source -> cleaned text), and the lines of the others.

  Topics quote one another at length; the lines tell what pretraining saw.
  """
  split = {row['source']: row['split'] for row in shards.read_documents(path)}
  held_out: dict[str, str] = {}
  seen: set[str] = set()
  for document in corpus.documents([CORPUS], 'text'):
    text = text_lib.clean(text_lib.paragraphs(document.text()))
    if split[document.source] == 'validation':
      held_out[document.source] = text
    else:
      seen.update(line.strip() for line in text.split('\n'))
  return held_out, seen


def make_task(
  held_out: Mapping[str, str], seen: Collection[str]
) -> tuple[list[Mapping], list[Mapping]]:
  """Rows (text, choices, label) of train and dev, divided by topic.

  A passage of CONTEXT_WORDS, its true next ANSWER_WORDS, and as many words
  from another topic of the same part. Lines in `seen`, lines that stand in
  several topics and lines that are not prose are left out.

  Args:
    held_out: topic -> cleaned text.
    seen: lines of other texts.
  """
  passages = _passages(held_out, seen)
  parts: dict[str, list[str]] = {'train': [], 'dev': []}
  sizes = {'train': 0, 'dev': 0}
  # The largest first, each to the part that is short of its share.
  for source in sorted(passages, key=lambda s: (-len(passages[s]), s)):
    short = sizes['dev'] * (1 - DEV_SHARE) < sizes['train'] * DEV_SHARE
    part = 'dev' if short else 'train'
    parts[part].append(source)
    sizes[part] += len(passages[source])
  for part, sources in parts.items():
    if len(sources) < 2:
      raise UserError(f'too few topics are held out to make a {part} set')
  rng = random.Random(0)
  train, dev = (
    _rows({source: passages[source] for source in sources}, rng)
    for sources in parts.values()
  )
  return train, dev


def _passages(
  held_out: Mapping[str, str], seen: Collection[str]
) -> dict[str, list[tuple[str, str]]]:
  """Topic -> (context, answer) pairs, from runs of unseen prose."""
  seen = set(seen)
  out = {}
  # The shortest first: what a long topic quotes belongs to the short one.
  for source in sorted(held_out, key=lambda s: (len(held_out[s]), s)):
    runs: list[list[str]] = [[]]
    for line in map(str.strip, held_out[source].split('\n')):
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
      out[source] = pairs
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
  for source, pairs in passages.items():
    others = [other for other in passages if other != source]
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
