r"""Prepares text for pretraining: clean, deduplicate, split, tokenize, shard.

  python -m gpt1_jax.prepare --input=books/ --output=data/books
  python -m gpt1_jax.prepare --input='more/*.jsonl.gz' --input=books/ \
      --output=data/all --merges=8000
  python -m gpt1_jax.prepare --output=data/books --verify

Inputs, which may be repeated and mixed: a folder or glob of .txt, .txt.gz (one
file is one document), .jsonl, .jsonl.gz or .parquet files (one row is one
document), tfds:NAME[/CONFIG]:SPLIT[:FIELD], builtin:python-reference.

Memory stays bounded whatever the size of the corpus: at most four documents a
worker are in flight, the tokenizer sees at most --tokenizer_sample_mb of text,
and of each document its sha256 is kept (about 100 bytes).
"""

import collections
import concurrent.futures
import hashlib
import itertools
import json
import multiprocessing
import os
import pathlib
import shutil
import time
from collections.abc import Callable, Iterable, Iterator
from typing import Any

import numpy as np
from absl import flags
from rich import console, progress

from gpt1_jax import command
from gpt1_jax.data import (
  corpus,
  shards,
  text as text_lib,
  tokenizer as tokenizer_lib,
)
from gpt1_jax.errors import UserError

_INPUT = flags.DEFINE_multi_string(
  'input', [], 'What to read, see above; may be given several times.'
)
_OUTPUT = flags.DEFINE_string(
  'output', None, 'Folder to write; made when all is done.', required=True
)
_TEXT_FIELD = flags.DEFINE_string(
  'text_field', 'text', 'Field or column that holds the text of a row.'
)
_MERGES = flags.DEFINE_integer(
  'merges', 40_000, 'Merges of the BPE tokenizer (40,000 in the paper).'
)
_TOKENIZER = flags.DEFINE_string(
  'tokenizer', None, 'Take this tokenizer (a file or folder); train none.'
)
_SAMPLE_MB = flags.DEFINE_integer(
  'tokenizer_sample_mb', 1000, 'Text the tokenizer is trained on, at most.'
)
_VALIDATION = flags.DEFINE_float(
  'validation_fraction', 0.05, 'Share of documents held out, by their hash.'
)
_SHARD_TOKENS = flags.DEFINE_integer(
  'shard_tokens', 100_000_000, 'Tokens a shard, at most.'
)
_WORKERS = flags.DEFINE_integer('workers', os.cpu_count(), 'Processes.')
_VERIFY = flags.DEFINE_bool(
  'verify', False, 'Only check the sha256 of every file of --output.'
)

_IN_FLIGHT = 4  # documents a worker


def main(argv: list[str]) -> None:
  del argv
  output = pathlib.Path(_OUTPUT.value)
  if _VERIFY.value:
    count = shards.verify(output)
    print(f'{output}: {count} files are as they were written')
    return
  settings = {
    'inputs': _INPUT.value,
    'text_field': _TEXT_FIELD.value,
    'merges': _MERGES.value,
    'tokenizer': _TOKENIZER.value,
    'tokenizer_sample_mb': _SAMPLE_MB.value,
    'validation_fraction': _VALIDATION.value,
    'shard_tokens': _SHARD_TOKENS.value,
  }
  _check(settings)
  if (output / shards.META).exists():
    there = shards.read_meta(output)['settings']
    different = [k for k in settings if settings[k] != there.get(k)]
    if different:
      raise UserError(
        f'{output}: finished before with another {", ".join(different)}; give '
        'another --output or remove it'
      )
    print(f'{output}: finished before, nothing to do')
    return
  if output.exists() and (not output.is_dir() or any(output.iterdir())):
    raise UserError(f'{output}: exists and is no prepared data; not touched')
  temporary = output.with_name(output.name + '.incomplete')
  shutil.rmtree(temporary, ignore_errors=True)  # of a killed run
  temporary.mkdir(parents=True)
  try:
    prepare(temporary, settings, _WORKERS.value)
    if output.exists():
      output.rmdir()
    os.replace(temporary, output)
  except BaseException:
    shutil.rmtree(temporary, ignore_errors=True)
    raise
  print(f'{output}: done')


def prepare(
  directory: pathlib.Path, settings: dict[str, Any], workers: int
) -> None:
  """Fills an empty directory; see the module for the steps."""
  context = multiprocessing.get_context('spawn')
  spool = directory / 'spool'
  with concurrent.futures.ProcessPoolExecutor(workers, context) as pool:
    _clean_all(pool, workers, spool, settings)
    if settings['tokenizer']:
      tokenizer = tokenizer_lib.load(settings['tokenizer'])
    else:
      started = time.perf_counter()
      lines = _sample(spool, settings['tokenizer_sample_mb'] * 1_000_000)
      tokenizer = tokenizer_lib.train(lines, settings['merges'])
      print(
        f'tokenizer: {tokenizer.merges} merges, {tokenizer.vocab_size} rows, '
        f'{time.perf_counter() - started:.0f} s'
      )
    tokenizer.save(directory)
    splits = _encode_all(pool, workers, directory, spool, settings)
  spool.unlink()
  shards.write_meta(
    directory,
    {
      'splits': splits,
      'tokenizer': tokenizer.description(),
      'cleaning': text_lib.CLEANING_VERSION,
      'validation_fraction': settings['validation_fraction'],
      'settings': settings,
    },
  )
  for split, facts in splits.items():
    print(
      f'{split}: {facts["documents"]} documents, {facts["words"]:,} words, '
      f'{facts["tokens"]:,} tokens'
    )


def split_of(sha256: str, validation_fraction: float) -> str:
  """A document's split: a function of its own hash and nothing else."""
  share = int(sha256[:13], 16) / 16**13
  return 'validation' if share < validation_fraction else 'train'


def _check(settings: dict[str, Any]) -> None:
  if not settings['inputs']:
    raise UserError('--input is missing: what should be read? see --help')
  if not 0 < settings['validation_fraction'] < 1:
    raise UserError('--validation_fraction lies between 0 and 1')
  for name, value in (
    ('merges', settings['merges']),
    ('shard_tokens', settings['shard_tokens']),
    ('tokenizer_sample_mb', settings['tokenizer_sample_mb']),
    ('workers', _WORKERS.value),
  ):
    if value < 1:
      raise UserError(f'--{name} is {value}: at least 1')


def _clean_all(pool, workers: int, spool: pathlib.Path, settings) -> None:
  """Documents → cleaned, deduplicated rows of the spool file, in order."""
  documents = corpus.documents(settings['inputs'], settings['text_field'])
  seen: set[bytes] = set()
  counts: collections.Counter[str] = collections.Counter()
  total = corpus.total_bytes(settings['inputs'])
  with (
    spool.open('w', encoding='utf-8') as file,
    _Progress('clean', total) as bar,
  ):
    for row in _in_order(pool, workers, _clean_one, documents):
      size = row.pop('size')
      digest = bytes.fromhex(row['sha256'])
      row['split'] = split_of(row['sha256'], settings['validation_fraction'])
      if digest in seen:
        row.update(split='duplicate', text='', words=0)
      seen.add(digest)
      counts[row['split']] += 1
      file.write(json.dumps(row) + '\n')
      bar.add(size, size / 1e6, 'MB/s')
  if not counts:
    raise UserError('the input holds no document')
  for split in shards.SPLITS:
    if not counts[split]:
      found = counts['train'] + counts['validation']
      raise UserError(
        f'the {split} split is empty: {found} documents fell to the other; '
        'give more documents or another --validation_fraction'
      )


def _clean_one(document: corpus.Document) -> dict[str, Any]:
  """In a worker: a document → its row."""
  text = text_lib.clean(text_lib.paragraphs(document.text()))
  if not text:
    raise UserError(f'{document.source}: no text is left after cleaning')
  return {
    'source': document.source,
    'sha256': hashlib.sha256(text.encode()).hexdigest(),
    'text': text,
    'words': text_lib.num_words(text),
    'size': document.size,
  }


def _sample(spool: pathlib.Path, limit: int) -> Iterator[str]:
  """Lower-cased training paragraphs, `limit` bytes at most, by their hash."""
  total = sum(
    len(row['text']) for row in _rows(spool) if row['split'] == 'train'
  )
  share = min(1.0, limit / max(total, 1))
  for row in _rows(spool):
    if row['split'] == 'train':
      for line in row['text'].lower().split('\n'):
        if share == 1.0 or _uniform(line) < share:
          yield line.strip()


def _uniform(line: str) -> float:
  digest = hashlib.blake2b(line.encode(), digest_size=8).digest()
  return int.from_bytes(digest) / 2**64


def _rows(spool: pathlib.Path) -> Iterator[dict[str, Any]]:
  with spool.open(encoding='utf-8') as file:
    for line in file:
      yield json.loads(line)


def _encode_all(
  pool, workers: int, directory: pathlib.Path, spool: pathlib.Path, settings
) -> dict[str, Any]:
  """Spool → shards and documents.jsonl; returns the facts of each split."""
  writers = {
    split: shards.ShardWriter(directory, split, settings['shard_tokens'])
    for split in shards.SPLITS
  }
  facts = {s: {'tokens': 0, 'words': 0, 'documents': 0} for s in shards.SPLITS}
  work = ((str(directory), line) for line in spool.open(encoding='utf-8'))
  with (
    (directory / shards.DOCUMENTS).open('w', encoding='utf-8') as file,
    _Progress('encode', spool.stat().st_size) as bar,
  ):
    for row, tokens, size in _in_order(pool, workers, _encode_one, work):
      file.write(json.dumps(row) + '\n')
      bar.add(size, len(tokens), 'tokens/s')
      if row['split'] in facts:
        writers[row['split']].write(tokens)
        facts[row['split']]['tokens'] += len(tokens)
        facts[row['split']]['words'] += row['words']
        facts[row['split']]['documents'] += 1
  for split, writer in writers.items():
    facts[split]['shards'] = writer.close()
  return facts


_tokenizers: dict[str, tokenizer_lib.SentencePieceTokenizer] = {}


def _encode_one(job: tuple[str, str]) -> tuple[dict[str, Any], np.ndarray, int]:
  """In a worker: a spool line → its row of documents.jsonl and its tokens."""
  directory, line = job
  if directory not in _tokenizers:
    _tokenizers[directory] = tokenizer_lib.load(directory)
  tokenizer = _tokenizers[directory]
  row = json.loads(line)
  text = row.pop('text')
  ids: list[int] = []
  if row['split'] != 'duplicate':
    ids = [*tokenizer.encode_clean(text), tokenizer.document_id]
  row['tokens'] = len(ids)
  return row, np.array(ids, np.uint16), len(line)


def _in_order(
  pool, workers: int, function: Callable[[Any], Any], items: Iterable[Any]
) -> Iterator[Any]:
  """`map(function, items)` on all workers, few items in flight."""
  items = iter(items)
  pending = collections.deque(
    pool.submit(function, item)
    for item in itertools.islice(items, _IN_FLIGHT * workers)
  )
  while pending:
    result = pending.popleft().result()
    for item in itertools.islice(items, 1):
      pending.append(pool.submit(function, item))
    yield result


class _Progress:
  """Documents, a rate and the time left: a bar, or a line every 10 s."""

  def __init__(self, label: str, total: int | None):
    self._console = console.Console(stderr=True)
    self._bar = progress.Progress(
      progress.TextColumn('{task.description}'),
      progress.BarColumn(),
      progress.TextColumn('{task.fields[note]}'),
      progress.TimeRemainingColumn(compact=True),
      console=self._console,
      disable=not self._console.is_terminal,
    )
    self._task = self._bar.add_task(label, total=total, note='')
    self._label, self._documents, self._units = label, 0, 0.0
    self._started = self._said = time.perf_counter()

  def __enter__(self) -> '_Progress':
    self._bar.start()
    return self

  def __exit__(self, *_) -> None:
    self._bar.stop()
    self._console.print(self._note, highlight=False)

  def add(self, advance: int, units: float, unit: str) -> None:
    """One document more: `advance` of the total, `units` for the rate."""
    self._documents += 1
    self._units += units
    now = time.perf_counter()
    rate = self._units / max(now - self._started, 1e-9)
    self._note = (
      f'{self._label}: {self._documents} documents, {rate:,.1f} {unit}'
    )
    self._bar.update(self._task, advance=advance, note=self._note)
    if not self._console.is_terminal and now - self._said > 10:
      self._said = now
      self._console.print(self._note, highlight=False)

  _note = 'no documents'


if __name__ == '__main__':
  command.run(main)
