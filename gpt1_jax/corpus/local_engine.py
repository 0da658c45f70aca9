"""The stages of `prepare`, each over all cores: clean, count words, encode.

Documents go to the workers in chunks of about a megabyte and come back in
order, so the output does not depend on the number of workers. Cleaned text
waits in a spool on disk, a file a chunk. At most `_IN_FLIGHT` chunks a worker
are in memory; what grows with the corpus is one set of 16-byte digests, about
100 bytes a document.
"""

import collections
import concurrent.futures
import contextlib
import json
import multiprocessing
import os
import pathlib
import signal
import threading
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import process
from typing import Any

import numpy as np

from gpt1_jax.corpus import (
  documents,
  pipeline,
  sentencepiece_tokenizer,
  shards,
  tokenization,
)
from gpt1_jax.errors import UserError

_CHUNK_BYTES = 1 << 20  # of input; a single document may be larger
_CHUNK_DOCUMENTS = 1000
_IN_FLIGHT = 3  # chunks a worker
_ROWS = 'rows'

# add(documents, share of the total done, units for the rate)
Report = Callable[[int, int, float], None]


class Workers:
  """Processes that map a function over chunks, in order, few at a time."""

  def __init__(self, count: int):
    self._count = count
    self._pool = concurrent.futures.ProcessPoolExecutor(
      count, multiprocessing.get_context('spawn'), _start_worker
    )

  def __enter__(self) -> 'Workers':
    return self

  def __exit__(self, *_) -> None:
    self._pool.shutdown(cancel_futures=True)

  def map(
    self, function: Callable[[Any], Any], items: Iterable[Any]
  ) -> Iterator[Any]:
    """`map(function, items)`; the items are taken as results are.

    Raises:
      UserError: a worker was killed from outside.
    """
    pending: collections.deque[concurrent.futures.Future] = collections.deque()
    try:
      for item in items:
        pending.append(self._pool.submit(function, item))
        if len(pending) >= _IN_FLIGHT * self._count:
          yield pending.popleft().result()
      while pending:
        yield pending.popleft().result()
    except process.BrokenProcessPool:
      raise UserError(
        'a worker process was killed, perhaps for want of memory; try fewer '
        '--workers'
      ) from None


def _start_worker() -> None:
  """A worker leaves interrupts to its parent, and does not outlive it."""
  signal.signal(signal.SIGINT, signal.SIG_IGN)
  parent = multiprocessing.parent_process()

  def watch() -> None:
    parent.join()
    os._exit(1)

  threading.Thread(target=watch, daemon=True).start()


def clean(
  workers: Workers,
  documents: Iterable[documents.Document],
  spool: pathlib.Path,
  rule: pipeline.SplitRule,
  report: Report,
) -> int:
  """Documents → cleaned text in the spool; returns the training bytes.

  Raises:
    UserError: a document is damaged or empty, or a split has none.
  """
  spool.mkdir()
  jobs = ((spool, *job) for job in enumerate(_chunks(documents)))
  seen: set[bytes] = set()
  shares: list[float] = []  # the smallest and the largest so far
  counts: collections.Counter[str] = collections.Counter()
  train_bytes = 0
  with (spool / _ROWS).open('w', encoding='utf-8') as file:
    for rows, disk in workers.map(_clean_chunk, jobs):
      for row in rows:
        digest = pipeline.digest_of(row)
        rule.place(row, is_copy=digest in seen)
        if digest not in seen:
          seen.add(digest)
          shares = sorted([*shares, pipeline.share_of(row['sha256'])])
          shares = [shares[0], shares[-1]]
        counts.update(rule.counts_of(row))
        train_bytes += row['bytes'] * (row['split'] == 'train')
      file.write(json.dumps(rows) + '\n')
      report(len(rows), disk, sum(row['bytes'] for row in rows) / 1e6)
  pipeline.check_splits(counts, shares, rule)
  return train_bytes


def _chunks(
  documents: Iterable[documents.Document],
) -> Iterator[list[documents.Document]]:
  chunk: list[documents.Document] = []
  size = 0
  for document in documents:
    chunk.append(document)
    whole = document.content is None
    size += document.disk if whole else len(document.content)
    if size >= _CHUNK_BYTES or len(chunk) >= _CHUNK_DOCUMENTS:
      yield chunk
      chunk, size = [], 0
  if chunk:
    yield chunk


def _clean_chunk(
  job: tuple[pathlib.Path, int, list[documents.Document]],
) -> tuple[list[dict[str, Any]], int]:
  """In a worker: documents → their rows, their text into the spool."""
  spool, number, documents = job
  rows = []
  with (spool / f'{number}.clean').open('wb') as file:
    for document in documents:
      row, data = pipeline.clean_document(document)
      file.write(data)
      rows.append(row)
  return rows, sum(document.disk for document in documents)


def _jobs(spool: pathlib.Path, *extra: Any) -> Iterator[tuple]:
  with (spool / _ROWS).open(encoding='utf-8') as file:
    for number, line in enumerate(file):
      yield spool / f'{number}.clean', json.loads(line), *extra


def _texts(path: pathlib.Path, rows: list[dict[str, Any]]) -> Iterator[str]:
  with path.open('rb') as file:
    for row in rows:
      yield file.read(row['bytes']).decode()


def count_words(
  workers: Workers, spool: pathlib.Path, share: float, report: Report
) -> collections.Counter[str]:
  """How often each word occurs in that share of the training paragraphs.

  Paragraphs are chosen by their hash, so the choice is the same every time.
  """
  total: collections.Counter[str] = collections.Counter()
  for words, count, size in workers.map(_count_chunk, _jobs(spool, share)):
    total.update(words)
    report(count, size, size / 1e6)
  return total


def _count_chunk(
  job: tuple[pathlib.Path, list[dict[str, Any]], float],
) -> tuple[collections.Counter[str], int, int]:
  path, rows, share = job
  lines = (
    line
    for row, text in zip(rows, _texts(path, rows), strict=True)
    if row['split'] == 'train'
    for line in pipeline.sampled_lines(text, share)
  )
  size = sum(row['bytes'] for row in rows)
  return sentencepiece_tokenizer.count_words(lines), len(rows), size


def encode(
  workers: Workers,
  spool: pathlib.Path,
  directory: pathlib.Path,
  shard_tokens: int,
  report: Report,
) -> dict[str, Any]:
  """Spool → shards and documents.jsonl, with the tokenizer in `directory`.

  Returns:
    For each split its tokens, words, documents and shards.
  """
  facts: dict[str, Any] = {
    split: {'tokens': 0, 'words': 0, 'documents': 0} for split in shards.SPLITS
  }
  with contextlib.ExitStack() as stack:
    writers = {
      split: stack.enter_context(
        shards.ShardWriter(directory, split, shard_tokens)
      )
      for split in shards.SPLITS
    }
    file = stack.enter_context(
      (directory / shards.DOCUMENTS).open('w', encoding='utf-8')
    )
    for rows, arrays in workers.map(_encode_chunk, _jobs(spool, directory)):
      size = sum(row.pop('bytes') for row in rows)
      for row, tokens in zip(rows, arrays, strict=True):
        file.write(json.dumps(row) + '\n')
        if row['split'] in facts:
          writers[row['split']].write(tokens)
          facts[row['split']]['tokens'] += len(tokens)
          facts[row['split']]['words'] += row['words']
          facts[row['split']]['documents'] += 1
      report(len(rows), size, sum(map(len, arrays)))
  for split, writer in writers.items():
    facts[split]['shards'] = writer.shards
  return facts


_tokenizers: dict[pathlib.Path, tokenization.Tokenizer] = {}


def _encode_chunk(
  job: tuple[pathlib.Path, list[dict[str, Any]], pathlib.Path],
) -> tuple[list[dict[str, Any]], list[np.ndarray]]:
  """In a worker: a chunk of the spool → rows and tokens of its documents."""
  path, rows, directory = job
  if directory not in _tokenizers:
    _tokenizers[directory] = tokenization.load(directory)
  tokenizer = _tokenizers[directory]
  arrays = []
  for row, text in zip(rows, _texts(path, rows), strict=True):
    arrays.append(pipeline.encode_document(tokenizer, row, text))
  path.unlink()
  return rows, arrays
