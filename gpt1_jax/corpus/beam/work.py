"""What the workers of the two pipelines do, element by element.

A document is at its place (run, number) all the way; see `pipelines`.
"""

import dataclasses
import json
import os
import shutil
import tempfile
from collections.abc import Iterable, Iterator
from typing import Any

import apache_beam as beam
from apache_beam import pvalue

from gpt1_jax.corpus import (
  documents,
  pipeline,
  sentencepiece_tokenizer,
  shards,
  tokenization,
)
from gpt1_jax.corpus.beam import places

Place = tuple[int, int]  # run, number in it
Cleaned = dict[str, Any]  # a record of the spool, see pipelines._SCHEMA

_TOKEN_BYTES = 2


class Read(beam.DoFn):
  """An input → its documents, with their places."""

  def __init__(self, text_field: str):
    self._text_field = text_field

  def process(
    self, file: tuple[int, int, str, str]
  ) -> Iterator[tuple[Place, documents.Document]]:
    run, number, kind, where = file
    if kind == 'text':  # is read where it is cleaned
      yield (run, number), documents.Document(where, None, where, 0)
      return
    with places.local_copy(where) as path:
      for document in documents.read(kind, where, path, self._text_field):
        yield (run, number), document
        number += 1


class Clean(beam.DoFn):
  """A document → its digest; its place, row and cleaned text."""

  def process(
    self, placed: tuple[Place, documents.Document]
  ) -> Iterator[tuple[bytes, tuple[Place, dict[str, Any], bytes]]]:
    place, document = placed
    with places.local_copy(document.path) as path:
      here = dataclasses.replace(document, path=path)
      row, text = pipeline.clean_document(here)
    yield pipeline.digest_of(row), (place, row, text)


class Split(beam.DoFn):
  """Copies of a document → the first of them with its text, and the others."""

  def __init__(self, rule: pipeline.SplitRule):
    self._rule = rule

  def process(
    self,
    copies: tuple[bytes, Iterable[tuple[Place, dict[str, Any], bytes]]],
  ) -> Iterator[Cleaned]:
    _, found = copies
    first = min(place for place, _, _ in found)
    for place, row, text in found:
      row = dict(row)
      is_copy = place != first
      self._rule.place(row, is_copy)
      yield {
        'run': place[0],
        'number': place[1],
        'row': json.dumps(row),
        'text': b'' if is_copy else text,
      }


class Facts(beam.CombineFn):
  """Of all documents: what they count for, the ends of their shares, bytes."""

  def __init__(self, rule: pipeline.SplitRule):
    self._rule = rule

  def create_accumulator(self) -> dict[str, Any]:
    return {'counts': {}, 'shares': [], 'train_bytes': 0}

  def add_input(self, facts: dict[str, Any], document: Cleaned) -> Any:
    row = json.loads(document['row'])
    split = row['split']
    kept = split != 'duplicate'
    return self.merge_accumulators(
      [
        facts,
        {
          'counts': dict.fromkeys(self._rule.counts_of(row), 1),
          'shares': [pipeline.share_of(row['sha256'])] * kept,
          'train_bytes': row['bytes'] * (split == 'train'),
        },
      ]
    )

  def merge_accumulators(self, several: Iterable[dict[str, Any]]) -> Any:
    counts: dict[str, int] = {}
    ends: list[float] = []
    train_bytes = 0
    for facts in several:
      for name, count in facts['counts'].items():
        counts[name] = counts.get(name, 0) + count
      shares = [*ends, *facts['shares']]
      ends = [min(shares), max(shares)] if shares else []
      train_bytes += facts['train_bytes']
    return {'counts': counts, 'shares': ends, 'train_bytes': train_bytes}

  def extract_output(self, facts: dict[str, Any]) -> dict[str, Any]:
    return facts


class Words(beam.DoFn):
  """A document of the training split → how often each word occurs."""

  def process(
    self, document: Cleaned, share: float
  ) -> Iterator[tuple[str, int]]:
    if json.loads(document['row'])['split'] == 'train':
      text = document['text'].decode()
      lines = pipeline.sampled_lines(text, share)
      yield from sentencepiece_tokenizer.count_words(lines).items()


class Encode(beam.DoFn):
  """A document → its tokens by its place; tagged 'rows', its row by block."""

  def __init__(self, tokenizer_files: list[tuple[str, str]], block: int):
    """Takes the tokenizer's files, as name and path, and a block's size."""
    self._tokenizer_files = tokenizer_files
    self._block = block

  def setup(self) -> None:
    with tempfile.TemporaryDirectory() as directory:
      for name, path in self._tokenizer_files:
        with (
          places.open_file(path) as source,
          open(os.path.join(directory, name), 'wb') as target,
        ):
          shutil.copyfileobj(source, target)
      self._tokenizer = tokenization.load(directory)

  def process(self, document: Cleaned) -> Iterator[Any]:
    run, number = document['run'], document['number']
    row = json.loads(document['row'])
    text = document['text'].decode()
    tokens = pipeline.encode_document(self._tokenizer, row, text)
    del row['bytes']
    block = run, number // self._block
    yield pvalue.TaggedOutput('rows', (block, (number, row)))
    if row['split'] != 'duplicate':
      yield (run, number), tokens.astype(shards.DTYPE).tobytes()


class Block(beam.DoFn):
  """Rows of a block → where tokens begin in it; a part of documents.jsonl.

  Tagged 'totals': the block, the path of the part, and for each split the
  tokens, words and documents in it.
  """

  def __init__(self, spool: places.Spool):
    self._spool = spool

  def process(
    self, block: tuple[Place, Iterable[tuple[int, dict[str, Any]]]]
  ) -> Iterator[Any]:
    (run, number), rows = block
    totals = {split: [0, 0, 0] for split in shards.SPLITS}
    starts = []
    path, file = self._spool.create(f'rows-{run}-{number}')
    with file:
      for i, row in sorted(rows, key=lambda numbered: numbered[0]):
        file.write((json.dumps(row) + '\n').encode())
        if row['split'] not in totals:
          continue
        sums = totals[row['split']]
        starts.append((i, row['split'], sums[0]))
        for k, value in enumerate((row['tokens'], row['words'], 1)):
          sums[k] += value
    yield (run, number), starts
    yield pvalue.TaggedOutput('totals', ((run, number), path, totals))


def table(
  totals: list[tuple[Place, str, dict[str, list[int]]]],
) -> dict[str, Any]:
  """All blocks, put in order.

  Returns:
    'parts': paths of the parts of documents.jsonl; 'starts': of each block,
    where its tokens begin in each split; 'splits': their tokens, words and
    documents.
  """
  facts = {split: [0, 0, 0] for split in shards.SPLITS}
  starts, parts = {}, []
  for block, path, sums in sorted(totals):
    parts.append(path)
    starts[_name(block)] = {split: facts[split][0] for split in facts}
    for split in facts:
      facts[split] = [
        a + b for a, b in zip(facts[split], sums[split], strict=True)
      ]
  names = ('tokens', 'words', 'documents')
  splits = {
    split: dict(zip(names, sums, strict=True)) for split, sums in facts.items()
  }
  return {'parts': parts, 'starts': starts, 'splits': splits}


def _name(block: Place) -> str:
  return f'{block[0]}-{block[1]}'


class Start(beam.DoFn):
  """Documents of a block → split and first token of each, by its place."""

  def process(
    self,
    block: tuple[Place, list[tuple[int, str, int]]],
    table: dict[str, Any],
  ) -> Iterator[tuple[Place, tuple[str, int]]]:
    (run, number), documents = block
    base = table['starts'][_name((run, number))]
    for i, split, start in documents:
      yield (run, i), (split, base[split] + start)


class Cut(beam.DoFn):
  """A document's tokens → pieces, each by its shard, with its place there."""

  def __init__(self, shard_tokens: int):
    self._shard_tokens = shard_tokens

  def process(
    self, document: tuple[Place, dict[str, Iterable[Any]]]
  ) -> Iterator[tuple[tuple[str, int], tuple[int, bytes]]]:
    (data,), ((split, start),) = (
      document[1]['tokens'],
      document[1]['start'],
    )
    done = 0
    while done < len(data):
      i, place = divmod(start + done // _TOKEN_BYTES, self._shard_tokens)
      piece = data[done : done + (self._shard_tokens - place) * _TOKEN_BYTES]
      yield (split, i), (place, piece)
      done += len(piece)


class Shard(beam.DoFn):
  """Pieces of a shard, in any order → its file: split, number, path, tokens."""

  def __init__(self, spool: places.Spool, shard_tokens: int):
    self._spool = spool
    self._shard_tokens = shard_tokens

  def process(
    self,
    shard: tuple[tuple[str, int], Iterable[tuple[int, bytes]]],
    table: dict[str, Any],
  ) -> Iterator[tuple[str, int, str, int]]:
    (split, i), pieces = shard
    rest = table['splits'][split]['tokens'] - i * self._shard_tokens
    tokens = min(rest, self._shard_tokens)
    written = 0
    with tempfile.TemporaryFile() as file:
      for place, data in pieces:
        file.seek(place * _TOKEN_BYTES)
        written += file.write(data)
      size = file.seek(0, os.SEEK_END)
      if not written == size == tokens * _TOKEN_BYTES:
        raise AssertionError(f'{split} {i}: {written} of {tokens} tokens')
      file.seek(0)
      path, target = self._spool.create(f'shard-{split}-{i}')
      with target:
        shutil.copyfileobj(file, target)
    yield split, i, path, tokens
