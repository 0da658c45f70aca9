"""Runs the pipeline on all cores of this machine: clean, count, encode.

Workers receive documents in chunks of about a megabyte and return them in
order, so the output does not depend on the number of workers. Cleaned text
waits on disk in a spool, one file for each chunk. A worker holds a few chunks
in memory. Only a set of 16-byte digests grows with the corpus, by about 100
bytes for each document.
"""

import collections
import contextlib
import dataclasses
import functools
import os
import pathlib
import pickle
import shutil
from collections.abc import Callable, Iterable, Iterator
from typing import NamedTuple

import numpy as np

from gpt1_jax import progress
from gpt1_jax.corpus import (
  documents,
  inputs,
  pipeline,
  preparation,
  sentencepiece_tokenizer,
  shards,
  splits,
  tokenization,
)
from gpt1_jax.corpus.metadata import DocumentRow
from gpt1_jax.corpus.workers import Workers

_CHUNK_BYTES = 1 << 20  # of input; a single document may be larger
_CHUNK_DOCUMENTS = 1000
_ROWS = 'rows'  # file in the spool: the chunks, pickled, without their texts

# report(documents, progress towards the total, units for the rate)
Report = Callable[[int, int, float], None]


@dataclasses.dataclass(frozen=True)
class LocalEngine:
  """Runs `prepare` in worker processes of this machine."""

  num_workers: int

  measure = staticmethod(inputs.measure)

  def run(
    self, directory: pathlib.Path, settings: pipeline.PrepareSettings
  ) -> tuple[tokenization.Tokenizer, shards.Splits]:
    """Writes the tokenizer, the shards and documents.jsonl."""
    spool = directory / 'spool'
    tokenizer = settings.load_tokenizer()
    found, rule = pipeline.plan(inputs.find(settings.inputs), settings)
    disk_bytes = sum(
      os.path.getsize(name)
      for name in {each.name for each in found}
      if os.path.isfile(name)
    )
    bar = functools.partial(progress.Progress, things='documents')
    with Workers(self.num_workers) as workers:
      texts = documents.read_all(found, settings.text_field)
      with bar('clean', disk_bytes or None, unit='MB/s') as cleaned:
        summary, rejected = clean(
          workers, texts, spool, rule, settings, cleaned.add
        )
      pipeline.write_rejected(directory, rejected)
      size = sum(file.stat().st_size for file in spool.iterdir())
      if tokenizer is None:
        sample_bytes = settings.tokenizer_sample_mb * 1_000_000
        share = sample_bytes / summary.train_bytes
        with bar('count words', size, unit='MB/s') as counted:
          word_counts = count_words(workers, spool, share, counted.add)
        tokenizer = preparation.train_tokenizer(word_counts, settings)
        del word_counts
      tokenizer.save(directory)
      with bar('encode', size, unit='tokens/s') as encoded:
        splits = encode(
          workers, spool, directory, settings.shard_tokens, encoded.add
        )
    shutil.rmtree(spool)
    return tokenizer, splits


class _Chunk(NamedTuple):
  """Documents in the spool: a file with their texts, and their rows."""

  path: pathlib.Path
  rows: list[DocumentRow]

  def texts(self) -> Iterator[tuple[DocumentRow, str]]:
    """Yields each row with its text."""
    with self.path.open('rb') as file:
      for row in self.rows:
        yield row, file.read(row.num_bytes).decode()


def _read_spool(spool: pathlib.Path) -> Iterator[_Chunk]:
  with (spool / _ROWS).open('rb') as file, contextlib.suppress(EOFError):
    while True:
      name, rows = pickle.load(file)
      yield _Chunk(spool / name, rows)


def clean(
  workers: Workers,
  found: Iterable[documents.Document],
  spool: pathlib.Path,
  rule: splits.SplitRule,
  settings: pipeline.PrepareSettings,
  report: Report,
) -> tuple[splits.SplitSummary, list[pipeline.Rejected]]:
  """Cleans and splits documents; writes their text and rows to the spool.

  Returns:
    Totals, and the rejected documents.

  Raises:
    UserError: too many documents are bad, or a split would be empty.
  """
  spool.mkdir()
  jobs = (
    (spool / f'{number}.clean', chunk)
    for number, chunk in enumerate(_chunks(found))
  )
  digests: set[bytes] = set()
  summary = splits.SplitSummary()
  rejected: list[pipeline.Rejected] = []
  num_documents = 0

  def assigned() -> Iterator[_Chunk]:
    nonlocal summary, num_documents
    clean_chunk = functools.partial(_clean_chunk, settings)
    for chunk, bad, disk_bytes in workers.map(clean_chunk, jobs):
      for i, row in enumerate(chunk.rows):
        chunk.rows[i] = rule.assign(row, is_copy=row.digest in digests)
        digests.add(row.digest)
        summary += rule.summarize(chunk.rows[i])
      rejected.extend(bad)
      num_documents += len(chunk.rows) + len(bad)
      if settings.skip_bad_rows >= 1:  # a share below 1 needs the total
        pipeline.check_rejected(rejected, num_documents, settings)
      yield chunk
      report(len(chunk.rows), disk_bytes, _num_bytes(chunk.rows) / 1e6)

  _write_rows(spool, assigned())
  pipeline.check_rejected(rejected, num_documents, settings)
  rule.check(summary)
  settled = rule.settle(summary)
  if settled != rule:
    chunks = _read_spool(spool)
    _write_rows(
      spool,
      (_Chunk(path, [*map(settled.reassign, rows)]) for path, rows in chunks),
    )
  return summary, rejected


def _write_rows(spool: pathlib.Path, chunks: Iterable[_Chunk]) -> None:
  """Replaces the rows of all chunks in the spool."""
  temporary = spool / f'{_ROWS}.new'
  with temporary.open('wb') as file:
    for path, rows in chunks:
      pickle.dump((path.name, rows), file)
  temporary.replace(spool / _ROWS)


def _chunks(
  found: Iterable[documents.Document],
) -> Iterator[list[documents.Document]]:
  chunk: list[documents.Document] = []
  size = 0
  for document in found:
    chunk.append(document)
    content = document.content
    size += document.disk_bytes if content is None else len(content)
    if size >= _CHUNK_BYTES or len(chunk) >= _CHUNK_DOCUMENTS:
      yield chunk
      chunk, size = [], 0
  if chunk:
    yield chunk


def _clean_chunk(
  settings: pipeline.PrepareSettings,
  job: tuple[pathlib.Path, list[documents.Document]],
) -> tuple[_Chunk, list[pipeline.Rejected], int]:
  """Cleans a chunk in a worker.

  Returns:
    The chunk, the rejected documents, and the bytes of input.
  """
  path, chunk = job
  rows, rejected = [], []
  with path.open('wb') as file:
    for document in chunk:
      cleaned = pipeline.clean_document(document, settings)
      if isinstance(cleaned, pipeline.Rejected):
        rejected.append(cleaned)
      else:
        rows.append(cleaned[0])
        file.write(cleaned[1])
  disk_bytes = sum(document.disk_bytes for document in chunk)
  return _Chunk(path, rows), rejected, disk_bytes


def _num_bytes(rows: Iterable[DocumentRow]) -> int:
  return sum(row.num_bytes for row in rows)


def count_words(
  workers: Workers, spool: pathlib.Path, share: float, report: Report
) -> collections.Counter[str]:
  """Counts the words in a share of the training paragraphs.

  The share is chosen by the paragraphs' hashes, so it is the same every time.
  """
  total: collections.Counter[str] = collections.Counter()
  count_chunk = functools.partial(_count_chunk, share)
  for words, rows in workers.map(count_chunk, _read_spool(spool)):
    total.update(words)
    report(len(rows), _num_bytes(rows), _num_bytes(rows) / 1e6)
  return total


def _count_chunk(
  share: float, chunk: _Chunk
) -> tuple[collections.Counter[str], list[DocumentRow]]:
  lines = (
    line
    for row, text in chunk.texts()
    if row.split == 'train'
    for line in pipeline.sampled_lines(text, share)
  )
  return sentencepiece_tokenizer.count_words(lines), chunk.rows


def encode(
  workers: Workers,
  spool: pathlib.Path,
  directory: pathlib.Path,
  shard_tokens: int,
  report: Report,
) -> shards.Splits:
  """Encodes the spool with the tokenizer in `directory`, emptying the spool.

  Writes shards and documents.jsonl into `directory`.
  """
  encode_chunk = functools.partial(_encode_chunk, directory)

  def encoded() -> Iterator[tuple[DocumentRow, np.ndarray]]:
    for chunk in workers.map(encode_chunk, _read_spool(spool)):
      yield from chunk
      rows = [row for row, _ in chunk]
      report(len(rows), _num_bytes(rows), sum(row.tokens for row in rows))

  return shards.write(directory, shard_tokens, encoded())


_load_tokenizer = functools.cache(tokenization.load)


def _encode_chunk(
  directory: pathlib.Path, chunk: _Chunk
) -> list[tuple[DocumentRow, np.ndarray]]:
  """Encodes a chunk in a worker and removes its file."""
  tokenizer = _load_tokenizer(directory)
  encoded = [
    pipeline.encode_document(tokenizer, row, text)
    for row, text in chunk.texts()
  ]
  chunk.path.unlink()
  return encoded
