"""Cleaned text to tokens: by the stage of `prepare`, or by SentencePiece alone.

Both take the same text with the same tokenizer on the same number of cores.
Ours makes shards of it; alone, SentencePiece encodes lines that are in memory.
"""

import pathlib
import shutil
import tempfile
import time
from typing import Any

from benchmarks import process
from gpt1_jax.corpus import local_engine, tokenization


def prepare(
  settings: dict[str, Any],
) -> tuple[process.Measure, dict[str, Any]]:
  spool = pathlib.Path(settings['spool'])
  size = sum(file.stat().st_size for file in spool.glob('*.clean'))
  make = _bare if settings['bare'] else _ours
  run = make(spool, settings)

  def measure() -> dict[str, float]:
    return {'bytes_per_second': size / run()}

  return measure, {}


def _ours(spool: pathlib.Path, settings: dict[str, Any]):
  def run() -> float:
    with (
      tempfile.TemporaryDirectory() as folder,
      local_engine.Workers(settings['cores']) as workers,
    ):
      directory = pathlib.Path(folder) / 'out'
      directory.mkdir()
      tokenization.load(settings['tokenizer']).save(directory)
      copy = shutil.copytree(spool, pathlib.Path(folder) / 'spool')
      # The workers start; they know no word yet.
      list(workers.map(time.sleep, [0.1] * 4 * settings['cores']))
      started = time.perf_counter()
      local_engine.encode(workers, copy, directory, 10**8, lambda *_: None)
      return time.perf_counter() - started

  return run


def _bare(spool: pathlib.Path, settings: dict[str, Any]):
  import sentencepiece

  processor = sentencepiece.SentencePieceProcessor(
    model_file=f'{settings["tokenizer"]}/tokenizer.model'
  )
  lines = [
    line
    for file in sorted(spool.glob('*.clean'))
    for line in file.read_text(encoding='utf-8').lower().split('\n')
  ]

  def run() -> float:
    started = time.perf_counter()
    processor.Encode(lines, num_threads=settings['cores'])
    return time.perf_counter() - started

  return run


if __name__ == '__main__':
  process.serve(prepare)
