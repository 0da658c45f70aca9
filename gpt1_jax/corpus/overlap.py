"""Counts sentences of other files, such as a task's dev set, in a corpus.

Text is compared as lower-cased words, without punctuation. A sentence of at
least `RUN` words is split into its runs of RUN words: it is found if the corpus
contains all of them, and it shares a run if the corpus contains one. A shorter
sentence is one run.
"""

import dataclasses
import io
import itertools
import json
import os
import pathlib
import re
from collections.abc import Iterator, Sequence
from typing import Any

import numpy as np

from gpt1_jax import storage
from gpt1_jax.corpus import csv_rows, shards, tokenization
from gpt1_jax.errors import UserError

RUN = 8
# Shorter sentences are skipped: every large corpus contains them.
MIN_WORDS = 4
SUFFIXES = ('.txt', '.tsv', '.csv', '.jsonl')
NUM_EXAMPLES = 5
_WORDS = re.compile(r'[^\W_]+')
# Hashes are uint64 polynomials in this number and wrap around. It is odd and so
# has an inverse: a word's hash does not depend on the word's place.
_BASE = np.uint64(0x9E3779B97F4A7C15)
_INVERSE = np.uint64(pow(int(_BASE), -1, 2**64))
_FILTER_BITS = 24
_SHIFT = np.uint64(64 - _FILTER_BITS)
_STEP = np.uint64(0xD1342543DE82EF95)  # for runs of words


@dataclasses.dataclass(frozen=True)
class FileOverlap:
  """Counts the sentences of one file.

  Attributes:
    file: path below the folder that was searched.
    sentences: number of distinct sentences of at least MIN_WORDS words.
    found: number of them that the corpus contains.
    shared: number of them with at least one run that the corpus contains.
    examples: up to NUM_EXAMPLES of the longest sentences found.
  """

  file: str
  sentences: int
  found: int
  shared: int
  examples: list[str]


def check(
  data: str | os.PathLike[str], folder: str | os.PathLike[str]
) -> list[FileOverlap]:
  """Looks up the sentences of all files in `folder` in a prepared corpus.

  Args:
    data: folder of prepared data; the training split is searched.
    folder: .txt (a sentence per line), .tsv, .csv, .jsonl files, at any depth.
      Every cell or string of at least MIN_WORDS words is a sentence.

  Raises:
    UserError: `folder` holds no such file, or `data` is not prepared data.
  """
  top = pathlib.Path(storage.path(folder))
  files = sorted(
    path for path in top.rglob('*') if path.suffix.lower() in SUFFIXES
  )
  if not files:
    raise UserError(f'{folder}: no {", ".join(SUFFIXES)} file here or below')
  tokens, bpe = shards.Tokens(data, 'train'), tokenization.load(data)
  sentences = {path: list(dict.fromkeys(_sentences(path))) for path in files}
  words = sorted({w for found in sentences.values() for s in found for w in s})
  hashed = dict(zip(words, _word_hashes(words).tolist(), strict=True))
  runs = {
    path: [
      _runs(np.array([hashed[w] for w in sentence], np.uint64), RUN)
      for sentence in found
    ]
    for path, found in sentences.items()
  }
  wanted = np.unique(
    np.concatenate([r for each in runs.values() for r in each])
  )
  present = _present(tokens, _Pieces(bpe), wanted)
  return [
    _count(str(path.relative_to(top)), sentences[path], runs[path], present)
    for path in files
  ]


def report(data: str | os.PathLike[str], folder: str | os.PathLike[str]) -> str:
  """Runs `check`, writes overlap.json to `data`, and returns the table."""
  rows = check(data, folder)
  storage.write_json(
    storage.path(data) / 'overlap.json',
    {
      'folder': str(folder),
      'run': RUN,
      'files': [dataclasses.asdict(row) for row in rows],
    },
  )
  return table(rows)


def table(rows: Sequence[FileOverlap]) -> str:
  """Formats the counts as a Markdown table."""
  lines = [
    '| file | sentences | in the corpus | share a run of 8 words |',
    '|---|---|---|---|',
  ]
  for row in rows:
    found, shared = (
      f'{count:,} ({count / max(1, row.sentences):.2%})'
      for count in (row.found, row.shared)
    )
    lines.append(f'| {row.file} | {row.sentences:,} | {found} | {shared} |')
  return '\n'.join(lines)


def _sentences(path: pathlib.Path) -> Iterator[tuple[str, ...]]:
  """Yields the words of each text in a file that has at least MIN_WORDS."""
  content = path.read_text(encoding='utf-8-sig', errors='replace')
  for text in _texts(path, content):
    found = _WORDS.findall(text.lower())
    if len(found) >= MIN_WORDS:
      yield tuple(found)


def _texts(path: pathlib.Path, content: str) -> Iterator[str]:
  suffix = path.suffix.lower()
  if suffix == '.csv':
    for _, cells in csv_rows.read(io.StringIO(content), path, strict=False):
      yield from cells
    return
  for line in content.splitlines():
    if suffix == '.jsonl':
      try:
        yield from _strings(json.loads(line) if line.strip() else None)
      except ValueError:
        yield line
    else:
      yield from line.split('\t') if suffix == '.tsv' else [line]


def _strings(value: Any) -> Iterator[str]:
  if isinstance(value, str):
    yield value
  elif isinstance(value, list | dict):
    for part in value.values() if isinstance(value, dict) else value:
      yield from _strings(part)


class _Pieces:
  """Cuts the tokens of a document into words, without decoding them.

  A token consists of fragments of words. It may begin or end a word.
  """

  def __init__(self, bpe: tokenization.Tokenizer):
    texts = [bpe.decode([i]) for i in range(bpe.vocab_size)]
    # Next to a token without spaces, other tokens keep their spaces.
    probe = next(
      i
      for i, text in enumerate(texts)
      if len(text) == 1 and text.isalpha() and bpe.decode([i, i]) == 2 * text
    )
    symbols = (bpe.unknown_id, bpe.newline_id, bpe.document_id)
    self._starts, self._ends = np.ones((2, bpe.vocab_size), bool)
    fragments: list[list[str]] = []
    for i, text in enumerate(texts):
      fragments.append([] if i in symbols else _WORDS.findall(text.lower()))
      if not fragments[i]:
        continue
      before, after = bpe.decode([probe, i]), bpe.decode([i, probe])
      at = len(texts[probe])
      self._starts[i] = not before[at:][:1].isalnum()
      self._ends[i] = not after[:-at][-1:].isalnum()
    self._counts = np.array([len(found) for found in fragments])
    self._first = np.cumsum(self._counts) - self._counts
    flat = list(itertools.chain.from_iterable(fragments))
    self._lengths = np.array([len(text) for text in flat], np.int64)
    self._hashes = _word_hashes(flat)

  def words(self, ids: np.ndarray) -> np.ndarray:
    """Returns the uint64 hash of each word of a document."""
    counts = self._counts[ids]
    total = int(counts.sum())
    begins = np.cumsum(counts) - counts  # first fragment of each token
    inside = np.arange(total) - np.repeat(begins, counts)
    fragments = np.repeat(self._first[ids], counts) + inside
    # A word starts where its token starts one, after a token that ends one or
    # has no letter, and at each further fragment of a token.
    after = np.concatenate([[True], self._ends[ids][:-1]])
    starts = (inside > 0) | np.repeat(self._starts[ids] | after, counts)
    lengths = self._lengths[fragments]
    places = np.cumsum(lengths) - lengths
    powers = _powers(_BASE, int(lengths.sum()) + 1)
    sums = np.concatenate(
      [
        np.zeros(1, np.uint64),
        np.cumsum(self._hashes[fragments] * powers[places]),
      ]
    )
    first = np.flatnonzero(starts)
    last = np.append(first[1:], total)
    inverse = _powers(_INVERSE, len(powers))
    return (sums[last] - sums[first]) * inverse[places[first]]


def _powers(base: np.uint64, count: int) -> np.ndarray:
  out = np.full(count, base)
  out[0] = 1
  return np.cumprod(out)


def _word_hashes(words: Sequence[str]) -> np.ndarray:
  """Returns uint64: the sum of the n-th letter's code times _BASE ** n."""
  lengths = np.array([len(word) for word in words], np.int64)
  letters = np.frombuffer(''.join(words).encode('utf-32-le'), np.uint32)
  places = np.arange(len(letters)) - np.repeat(
    np.cumsum(lengths) - lengths, lengths
  )
  powers = _powers(_BASE, int(lengths.max(initial=0)) + 1)
  terms = letters.astype(np.uint64) * powers[places]
  sums = np.concatenate([np.zeros(1, np.uint64), np.cumsum(terms)])
  ends = np.cumsum(lengths)
  return sums[ends] - sums[ends - lengths]


def _runs(words: np.ndarray, size: int) -> np.ndarray:
  """Returns a uint64 hash of each run of words; shorter text is one run."""
  size = min(size, len(words))
  count = len(words) - size + 1
  out = np.full(count, size, np.uint64)
  for offset in range(size):
    out = (out ^ words[offset : offset + count]) * _STEP
    out ^= out >> np.uint64(29)
  return out


def _present(
  tokens: shards.Tokens, pieces: _Pieces, wanted: np.ndarray
) -> set[int]:
  """Returns the wanted runs that occur in a document of the corpus."""
  seen = np.zeros(len(wanted), bool)
  # Most runs are ruled out by the first bits of their hash.
  likely = np.zeros(2**_FILTER_BITS, bool)
  likely[wanted >> _SHIFT] = True
  start = 0
  for end in tokens.document_ends.tolist():
    words = pieces.words(tokens.read(start, end - start))
    start = end
    for size in range(MIN_WORDS, RUN + 1):
      if len(words) < size:
        continue
      runs = _runs(words, size)
      runs = runs[likely[runs >> _SHIFT]]
      places = np.searchsorted(wanted, runs).clip(max=len(wanted) - 1)
      seen[places[wanted[places] == runs]] = True
  return set(wanted[seen].tolist())


def _count(
  name: str,
  sentences: Sequence[tuple[str, ...]],
  runs: Sequence[np.ndarray],
  present: set[int],
) -> FileOverlap:
  found, shared = [], 0
  for sentence, each in zip(sentences, runs, strict=True):
    hits = [run in present for run in each.tolist()]
    shared += any(hits)
    if all(hits):
      found.append(' '.join(sentence))
  longest = sorted(found, key=len, reverse=True)[:NUM_EXAMPLES]
  return FileOverlap(name, len(sentences), len(found), shared, longest)
