"""Runs the pipeline over all cores of this machine: clean, count, encode.

Workers receive documents in chunks of about a megabyte and return them in
order, so the output does not depend on the number of workers. Cleaned text
waits on disk in a spool, one file for each chunk. A worker has at most
`_IN_FLIGHT` chunks in memory; what grows with the corpus is one set of 16-byte
digests, about 100 bytes for each document.
"""

import collections
import concurrent.futures
import contextlib
import dataclasses
import functools
import multiprocessing
import os
import pathlib
import pickle
import shutil
import signal
import threading
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import process
from typing import NamedTuple, TypeVar

import numpy as np

from gpt1_jax import progress
from gpt1_jax.corpus import (
  documents,
  pipeline,
  preparation,
  sentencepiece_tokenizer,
  shards,
  tokenization,
)
from gpt1_jax.corpus.metadata import DocumentRow
from gpt1_jax.errors import UserError

_CHUNK_BYTES = 1 << 20  # of input; a single document may be larger
_CHUNK_DOCUMENTS = 1000
_IN_FLIGHT = 3  # chunks for each worker
_ROWS = 'rows'  # in the spool: the chunks, pickled, without their texts

# report(documents, share of the total done, units for the rate)
Report = Callable[[int, int, float], None]
T = TypeVar('T')
R = TypeVar('R')


@dataclasses.dataclass(frozen=True)
class LocalEngine:
  """Runs `prepare` in worker processes of this machine."""

  num_workers: int

  measure = staticmethod(documents.measure)

  def run(
    self, directory: pathlib.Path, settings: pipeline.PrepareSettings
  ) -> tuple[tokenization.Tokenizer, shards.Splits]:
    """Writes the tokenizer, the shards and documents.jsonl."""
    spool = directory / 'spool'
    tokenizer = settings.load_tokenizer()
    disk_bytes = documents.measure(settings.inputs)['bytes'] or None
    bar = functools.partial(progress.Progress, things='documents')
    with Workers(self.num_workers) as workers:
      found = documents.read_all(settings.inputs, settings.text_field)
      rule = pipeline.SplitRule(settings.validation_fraction, settings.hold_out)
      with bar('clean', disk_bytes, unit='MB/s') as cleaned:
        summary = clean(workers, found, spool, rule, cleaned.add)
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


class Workers:
  """Processes that map a function over chunks: in order, a few at a time."""

  def __init__(self, count: int):
    self._count = count
    self._pool = concurrent.futures.ProcessPoolExecutor(
      count, multiprocessing.get_context('spawn'), _start_worker
    )

  def __enter__(self) -> 'Workers':
    return self

  def __exit__(self, *_: object) -> None:
    self._pool.shutdown(cancel_futures=True)

  def map(self, function: Callable[[T], R], items: Iterable[T]) -> Iterator[R]:
    """Maps like `map`, but takes items only as fast as results are taken.

    Raises:
      UserError: a worker was killed from outside.
    """
    pending: collections.deque[concurrent.futures.Future[R]]
    pending = collections.deque()
    try:
      for item in items:
        pending.append(self._pool.submit(function, item))
        if len(pending) >= _IN_FLIGHT * self._count:
          yield pending.popleft().result()
      while pending:
        yield pending.popleft().result()
    except process.BrokenProcessPool:
      raise UserError(
        'a worker process was killed, probably because memory ran out; try '
        'fewer --workers'
      ) from None


def _start_worker() -> None:
  """Leaves interrupts to the parent, and ends the worker when it ends."""
  signal.signal(signal.SIGINT, signal.SIG_IGN)
  parent = multiprocessing.parent_process()
  assert parent is not None

  def watch() -> None:
    parent.join()
    os._exit(1)

  threading.Thread(target=watch, daemon=True).start()


class _Chunk(NamedTuple):
  """A chunk in the spool: the file of its texts, and their rows."""

  path: pathlib.Path
  rows: list[DocumentRow]

  def texts(self) -> Iterator[tuple[DocumentRow, str]]:
    """Reads the chunk: yields each row with its text."""
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
  rule: pipeline.SplitRule,
  report: Report,
) -> pipeline.SplitSummary:
  """Cleans and splits documents; writes their text and rows to the spool.

  Raises:
    UserError: a document is damaged or empty, or a split would be empty.
  """
  spool.mkdir()
  jobs = (
    (spool / f'{number}.clean', chunk)
    for number, chunk in enumerate(_chunks(found))
  )
  digests: set[bytes] = set()
  summary = pipeline.SplitSummary()
  with (spool / _ROWS).open('wb') as file:
    for (path, rows), disk_bytes in workers.map(_clean_chunk, jobs):
      for i, row in enumerate(rows):
        rows[i] = rule.assign(row, is_copy=row.digest in digests)
        digests.add(row.digest)
        summary += rule.summarize(rows[i])
      pickle.dump((path.name, rows), file)
      report(len(rows), disk_bytes, _num_bytes(rows) / 1e6)
  rule.check(summary)
  return summary


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
  job: tuple[pathlib.Path, list[documents.Document]],
) -> tuple[_Chunk, int]:
  """Cleans a chunk in a worker; returns it and its bytes of input."""
  path, chunk = job
  rows = []
  with path.open('wb') as file:
    for document in chunk:
      row, data = pipeline.clean_document(document)
      file.write(data)
      rows.append(row)
  return _Chunk(path, rows), sum(document.disk_bytes for document in chunk)


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
