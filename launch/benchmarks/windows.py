"""The input pipeline of pretraining: open shards, read, make batches.

Without jax, as it is on a host that only reads.
"""

import json
import pathlib
import time
from typing import Any

import numpy as np

from benchmarks import process
from gpt1_jax.corpus import shards, windows


def prepare(
  settings: dict[str, Any],
) -> tuple[process.Measure, dict[str, Any]]:
  path, count = settings['path'], settings['batches']
  step, peak = 0, None

  def measure() -> dict[str, float]:
    nonlocal step, peak
    before = process.memory_bytes()['resident_bytes']
    started = time.perf_counter()
    source = windows.Windows(
      shards.Tokens(path, 'train'),
      n_ctx=settings['n_ctx'],
      batch_size=settings['batch_size'],
      cross_documents=True,
      seed=0,
    )
    opened = time.perf_counter() - started
    memory = process.memory_bytes()
    # The first time; later, pages of the corpus that were read are in it, which
    # the system takes back when it needs them.
    peak = peak or memory['peak_bytes']
    # Any place of the corpus, read by itself.
    tokens = shards.Tokens(path, 'train')
    places = np.random.default_rng(step).integers(
      0, tokens.num_tokens - settings['n_ctx'], 1000
    )
    started = time.perf_counter()
    for place in places.tolist():
      tokens.read(place, settings['n_ctx'])
    read = (time.perf_counter() - started) / len(places)
    started = time.perf_counter()
    for _ in range(count):
      batch = source.batch(step)
      step += 1
    seconds = (time.perf_counter() - started) / count
    return {
      'tokens_per_second': batch['tokens'].size / seconds,
      'open_seconds': opened,
      'open_bytes': memory['resident_bytes'] - before,
      'peak_bytes': peak,
      'read_seconds': read,
    }

  return measure, {}


def write_sparse(
  path: pathlib.Path, num_tokens: int, shard_tokens: int
) -> None:
  """Shards as `prepare` leaves them, all zeros, which take no room."""
  sizes = [
    min(shard_tokens, num_tokens - start)
    for start in range(0, num_tokens, shard_tokens)
  ]
  rows = []
  for number, size in enumerate(sizes):
    name = shards.shard_name('train', number, len(sizes))
    with (path / name).open('wb') as file:
      file.truncate(size * shards.DTYPE.itemsize)
    rows.append({'name': name, 'tokens': size})
  facts = {'tokens': num_tokens, 'words': num_tokens, 'shards': rows}
  meta = {'version': shards.VERSION, 'splits': {'train': facts}}
  (path / shards.META).write_text(json.dumps(meta), encoding='utf-8')


if __name__ == '__main__':
  process.serve(prepare)
