"""Transforms of the two pipelines: functions of one element each.

A document keeps its position (segment, number) throughout; see `pipelines`.
"""

import dataclasses
import functools
import json
import operator
import os
import pathlib
import shutil
import tempfile
from collections.abc import Iterable, Iterator
from typing import Any, TypedDict

import apache_beam as beam
from apache_beam import pvalue

from gpt1_jax.corpus import (
  documents,
  pipeline,
  preparation,
  sentencepiece_tokenizer,
  shards,
  tokenization,
)
from gpt1_jax.corpus.beam import files
from gpt1_jax.corpus.metadata import DocumentRow

Position = tuple[int, int]  # of a document: segment, number in the segment
Block = tuple[int, int]  # of up to a fixed number of documents of a segment
# A document in the spool: segment, number, row (JSON), text (UTF-8).
Record = dict[str, Any]
Totals = dict[str, list[int]]  # split -> tokens, words, documents

_TOKEN_BYTES = shards.DTYPE.itemsize


class Layout(TypedDict):
  """The output as a whole: all blocks in order.

  Attributes:
    row_files: the parts of documents.jsonl.
    offsets: block -> split -> position of the block's first token.
    splits: tokens, words and documents of each split.
  """

  row_files: list[str]
  offsets: dict[str, dict[str, int]]
  splits: preparation.Splits


def read(
  element: tuple[Position, documents.Input], text_field: str
) -> Iterator[tuple[Position, documents.Document]]:
  """Reads the documents of an input; numbers them from its position on."""
  (segment, number), found = element
  if found.kind == 'text':  # read only where it is cleaned
    document = documents.Document(found.name, None, found.name, 0)
    yield (segment, number), document
    return
  with files.local_copy(found.name) as path:
    for document in documents.read(found, path, text_field):
      yield (segment, number), document
      number += 1


def clean(
  element: tuple[Position, documents.Document],
) -> tuple[bytes, tuple[Position, DocumentRow, bytes]]:
  """Cleans a document; keys it by the digest that its copies share."""
  position, document = element
  with files.local_copy(document.path) as path:
    local = dataclasses.replace(document, path=path)
    row, text = pipeline.clean_document(local)
  return row.digest, (position, row, text)


def assign_split(
  copies: tuple[bytes, Iterable[tuple[Position, DocumentRow, bytes]]],
  rule: pipeline.SplitRule,
) -> Iterator[Record]:
  """Keeps the text of the first copy of a document; marks the others."""
  _, found = copies
  first = min(position for position, _, _ in found)
  for position, row, text in found:
    is_copy = position != first
    assigned = rule.assign(row, is_copy)
    yield {
      'segment': position[0],
      'number': position[1],
      'row': json.dumps(dataclasses.asdict(assigned)),
      'text': b'' if is_copy else text,
    }


def row_of(record: Record) -> DocumentRow:
  """Returns the row of a record."""
  return DocumentRow(**json.loads(record['row']))


def summarize(
  record: Record, rule: pipeline.SplitRule
) -> pipeline.SplitSummary:
  """Returns the summary of one document."""
  return rule.summarize(row_of(record))


def add_summaries(
  summaries: Iterable[pipeline.SplitSummary],
) -> pipeline.SplitSummary:
  """Adds summaries up."""
  return functools.reduce(operator.add, summaries, pipeline.SplitSummary())


def count_words(record: Record, share: float) -> Iterator[tuple[str, int]]:
  """Counts the words in a share of a training document's paragraphs."""
  if row_of(record).split == 'train':
    lines = pipeline.sampled_lines(record['text'].decode(), share)
    yield from sentencepiece_tokenizer.count_words(lines).items()


class Encode(beam.DoFn):
  """Encodes documents: yields tokens by position, and rows by block.

  The rows are tagged 'rows'.
  """

  def __init__(self, tokenizer_files: list[tuple[str, str]], block_size: int):
    """Takes the name and path of each tokenizer file, and a block's size."""
    self._tokenizer_files = tokenizer_files
    self._block_size = block_size

  def setup(self) -> None:
    with tempfile.TemporaryDirectory() as directory:
      for name, path in self._tokenizer_files:
        with (
          files.open_file(path) as source,
          (pathlib.Path(directory) / name).open('wb') as target,
        ):
          shutil.copyfileobj(source, target)
      self._tokenizer = tokenization.load(directory)

  def process(self, record: Record) -> Iterator[Any]:
    segment, number = record['segment'], record['number']
    row, tokens = pipeline.encode_document(
      self._tokenizer, row_of(record), record['text'].decode()
    )
    block = segment, number // self._block_size
    yield pvalue.TaggedOutput('rows', (block, (number, row)))
    if row.split != 'duplicate':
      yield (segment, number), tokens.astype(shards.DTYPE).tobytes()


def add_up_block(
  element: tuple[Block, Iterable[tuple[int, DocumentRow]]], spool: files.Spool
) -> Iterator[Any]:
  """Yields a block's document offsets; writes its part of documents.jsonl.

  The offsets count tokens from the first of the block. Tagged 'totals': the
  block, the path of its part, and its totals.
  """
  block, rows = element
  totals: Totals = {split: [0, 0, 0] for split in shards.SPLITS}
  offsets = []
  path, file = spool.create(f'rows-{_key(block)}')
  with file:
    for number, row in sorted(rows, key=lambda numbered: numbered[0]):
      file.write(row.to_line().encode())
      if row.split in totals:
        offsets.append((number, row.split, totals[row.split][0]))
        totals[row.split] = _add(totals[row.split], [row.tokens, row.words, 1])
  yield block, offsets
  yield pvalue.TaggedOutput('totals', (block, path, totals))


def _add(a: list[int], b: list[int]) -> list[int]:
  return [x + y for x, y in zip(a, b, strict=True)]


def _key(block: Block) -> str:
  return f'{block[0]}-{block[1]}'


def lay_out(blocks: list[tuple[Block, str, Totals]]) -> Layout:
  """Puts all blocks in order."""
  sums: Totals = {split: [0, 0, 0] for split in shards.SPLITS}
  offsets = {}
  for block, _, totals in sorted(blocks):
    offsets[_key(block)] = {split: sums[split][0] for split in sums}
    sums = {split: _add(sums[split], totals[split]) for split in sums}
  return {
    'row_files': [path for _, path, _ in sorted(blocks)],
    'offsets': offsets,
    'splits': {
      split: {
        'tokens': tokens,
        'words': words,
        'documents': num_documents,
        'shards': [],
      }
      for split, (tokens, words, num_documents) in sums.items()
    },
  }


def find_offsets(
  element: tuple[Block, list[tuple[int, str, int]]], layout: Layout
) -> Iterator[tuple[Position, tuple[str, int]]]:
  """Yields each document's split and first token, counted from the split's."""
  block, documents = element
  base = layout['offsets'][_key(block)]
  for number, split, offset in documents:
    yield (block[0], number), (split, base[split] + offset)


def cut(
  element: tuple[Position, dict[str, Iterable[Any]]], shard_tokens: int
) -> Iterator[tuple[tuple[str, int], tuple[int, bytes]]]:
  """Cuts a document's tokens at the ends of shards.

  Yields:
    The split and number of a shard; the position and the bytes of the piece.
  """
  (data,), ((split, first),) = element[1]['tokens'], element[1]['offset']
  done = 0
  while done < len(data):
    shard, place = divmod(first + done // _TOKEN_BYTES, shard_tokens)
    piece = data[done : done + (shard_tokens - place) * _TOKEN_BYTES]
    yield (split, shard), (place, piece)
    done += len(piece)


def write_shard(
  element: tuple[tuple[str, int], Iterable[tuple[int, bytes]]],
  layout: Layout,
  spool: files.Spool,
  shard_tokens: int,
) -> tuple[str, int, str, int]:
  """Writes a shard from pieces in any order.

  Returns:
    Its split, number, path and number of tokens.
  """
  (split, shard), pieces = element
  rest = layout['splits'][split]['tokens'] - shard * shard_tokens
  tokens = min(rest, shard_tokens)
  written = 0
  with tempfile.TemporaryFile() as file:
    for place, data in pieces:
      file.seek(place * _TOKEN_BYTES)
      written += file.write(data)
    size = file.seek(0, os.SEEK_END)
    if not written == size == tokens * _TOKEN_BYTES:
      raise AssertionError(f'{split} {shard}: {written} of {tokens} tokens')
    file.seek(0)
    path, target = spool.create(f'shard-{split}-{shard}')
    with target:
      shutil.copyfileobj(file, target)
  return split, shard, path, tokens
