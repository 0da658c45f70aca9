"""The suite `data`: the input pipeline, and what `prepare` takes to encode."""

import os
import pathlib
import tempfile
import time

from benchmarks import process, results, shapes, windows
from gpt1_jax.corpus import (
  documents,
  local_engine,
  pipeline,
  sentencepiece_tokenizer,
)

_BUILTIN = 'builtin:python-reference'


def data(options: results.Options) -> list[results.Row]:
  """All rows of the suite."""
  return [*_pipeline(options), *_open(options), *_encode(options)]


def _pipeline(options: results.Options) -> list[results.Row]:
  """Batches from one process beside the step that eats them, in turn."""
  settings = options.settings(model={'dtype': 'bfloat16'})
  with tempfile.TemporaryDirectory() as folder:
    windows.write_sparse(pathlib.Path(folder), 10**8, 10**7)
    measured, _ = process.alternate(
      {
        'input pipeline': ('windows', _windows(options, folder)),
        'CPU step': ('train_jax', settings),
      },
      options,
    )
  rate = 'tokens_per_second'
  return [
    results.Row(
      'input pipeline, one process',
      'tokens/s',
      results.median(measured.get('input pipeline'), rate),
      'CPU step, bfloat16',
      results.median(measured.get('CPU step'), rate),
      20.0,
    )
  ]


def _windows(options: results.Options, folder: str) -> dict:
  n_ctx = shapes.config(options.settings())['model']['n_ctx']
  return {
    'path': folder,
    'n_ctx': n_ctx,
    'batch_size': 2,
    'batches': 20 if options.quick else 2000,
  }


def _open(options: results.Options) -> list[results.Row]:
  """A corpus of 1 B tokens (files with holes) and one of a thousandth."""
  with tempfile.TemporaryDirectory() as folder:
    candidates = {}
    for name, count in (('large', 10**9), ('small', 10**6)):
      path = pathlib.Path(folder) / name
      path.mkdir()
      windows.write_sparse(path, count, max(count // 10, 10**6))
      candidates[name] = ('windows', _windows(options, str(path)))
    measured, _ = process.alternate(candidates, options)

  def of(name: str, key: str) -> float | None:
    return results.median(measured.get(name), key)

  seconds, memory = of('large', 'open_seconds'), of('large', 'peak_bytes')
  added, read = of('large', 'open_bytes'), of('large', 'read_seconds')
  return [
    results.Row('opening 1 B tokens', 's', seconds, '', None, 1.0, True),
    results.Row('memory of the opener', 'B', memory, '', None, 200e6, True),
    results.Row('of it, what opening added', 'B', added, '', None, None, True),
    results.Row(
      'a window anywhere in 1 B tokens',
      's',
      read,
      'in 1 M tokens',
      of('small', 'read_seconds'),
      None,
      at_most=True,
    ),
  ]


def _encode(options: results.Options) -> list[results.Row]:
  """`prepare` on the books of --data, or on what Python carries."""
  specs = [_BUILTIN]
  if options.data and not options.quick:
    specs = [os.path.join(options.data, 'books')]
  cores = len(os.sched_getaffinity(0))
  with tempfile.TemporaryDirectory() as folder:
    spool = pathlib.Path(folder) / 'spool'
    with local_engine.Workers(cores) as workers:
      list(workers.map(time.sleep, [0.1] * 4 * cores))
      started = time.perf_counter()
      found = documents.read_all(specs, 'text')
      rule = pipeline.SplitRule(0.05)
      local_engine.clean(workers, found, spool, rule, lambda *_: None)
      seconds = time.perf_counter() - started
      words = local_engine.count_words(workers, spool, 1.0, lambda *_: None)
    merges = 500 if options.quick else 8000
    sentencepiece_tokenizer.train(words, merges).save(folder)
    settings = {'spool': str(spool), 'tokenizer': folder, 'cores': cores}
    measured, _ = process.alternate(
      {
        'prepare': ('encode', {**settings, 'bare': False}),
        'SentencePiece': ('encode', {**settings, 'bare': True}),
      },
      options,
    )
  size, rate = documents.measure(specs)['bytes'], 'bytes_per_second'
  return [
    results.Row('cleaning', 'B/s', size / seconds, '', None, None),
    results.Row(
      f'encoding, {cores} cores',
      'B/s',
      results.median(measured.get('prepare'), rate),
      'SentencePiece alone',
      results.median(measured.get('SentencePiece'), rate),
      0.8,
    ),
  ]
