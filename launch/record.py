r"""Times the training to a validation perplexity of 90.0 on two CPU cores.

  python launch/record.py --books=../shared/data/books

The record is the shortest time from an empty folder to a finished run of
configs/pretrain.py:record on BOOKS, with 8,000 merges, whose validation
perplexity is at most 90.0 per token. Preparing the corpus does not count;
compiling and evaluating do. Writes OUTPUT/record.json, and prints the row for
docs/results/record.md. Ends with exit code 1 if the perplexity is higher.
"""

import datetime
import json
import os
import pathlib
import resource
import subprocess
import sys
import time

import checkout
from absl import flags
from benchmarks import machine

from gpt1_jax import cli, storage
from gpt1_jax.errors import RunError, UserError
from gpt1_jax.train import run as run_lib

_TARGET = 90.0  # perplexity per token, as `mini` reached in one epoch
_MERGES = 8_000

_BOOKS = flags.DEFINE_string('books', None, 'Folder of the novels.')
_OUTPUT = flags.DEFINE_string(
  'output', 'runs/record', 'Folder to write; a corpus in it is reused.'
)
_CONFIG = cli.define_config(
  'configs/pretrain.py:record', 'Configuration of the run.'
)


def main() -> None:
  output = pathlib.Path(_OUTPUT.value)
  corpus, workdir = output / 'corpus', output / 'run'
  if not corpus.exists():
    books = cli.required('books', _BOOKS.value)
    _call(
      'prepare', f'--input={books}', f'--output={corpus}', f'--merges={_MERGES}'
    )
  if (workdir / 'config.json').exists():
    raise UserError(
      f'{workdir}: holds a run; a record begins in an empty folder: move or '
      'delete it, or use another --output'
    )
  peak = machine.matrix_peak()
  print(f'matrix products: {peak / 1e9:,.0f} GFLOP/s in bfloat16', flush=True)
  before = _processor_seconds()
  start = time.perf_counter()
  _call(
    'pretrain',
    f'--config={_CONFIG.value}',
    f'--workdir={workdir}',
    f'--config.data.path={corpus}',
    *(word for word in sys.argv if word.startswith('--config.')),
  )
  wall = time.perf_counter() - start
  scores = json.loads((workdir / 'scores.json').read_text())
  row = {
    'date': datetime.datetime.now(datetime.UTC).date().isoformat(),
    'commit': run_lib.commit(),
    'minutes': round(wall / 60, 1),
    'processor_minutes': round((_processor_seconds() - before) / 60, 1),
    'perplexity': round(scores['eval_perplexity'], 2),
    'tokens': scores['tokens_seen'],
    'cores': os.cpu_count(),
    'processor': machine.processor(),
    'peak_gflops': round(peak / 1e9),
  }
  storage.write_json(storage.path(output / 'record.json'), row)
  print('| ' + ' | '.join(str(value) for value in row.values()) + ' |')
  if scores['eval_perplexity'] > _TARGET:
    raise RunError(
      f'perplexity {scores["eval_perplexity"]:.2f} exceeds {_TARGET}: no record'
    )


def _call(command: str, *flags_: str) -> None:
  words = [sys.executable, '-m', f'gpt1_jax.{command}', *flags_]
  done = subprocess.run(words, env=checkout.environment(), check=False)
  if done.returncode:
    raise RunError(f'{command} ended with exit code {done.returncode}')


def _processor_seconds() -> float:
  """Returns the processor time of all child processes that have ended."""
  usage = resource.getrusage(resource.RUSAGE_CHILDREN)
  return usage.ru_utime + usage.ru_stime


if __name__ == '__main__':
  cli.run(main)
