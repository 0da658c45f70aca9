r"""Benchmarks this project against others and reports ratios.

  python launch/benchmark.py --suite=train
  python launch/benchmark.py --suite=finetune --data=../shared/data --json

Suites: train (the training step on a CPU), gpu (the same on a GPU), generate
and finetune compare with transformers on torch; prepare (encoding) compares
with SentencePiece. Every candidate runs in its own process, repetitions
alternate, and figures are medians. Install torch and transformers with
pip install -e '.[torch]'; without them only our own figures are printed. See
docs/performance.md.
"""

import dataclasses
import datetime
import json
import os
import sys
from collections.abc import Sequence

import checkout  # noqa: F401
from absl import flags
from benchmarks import machine as machine_lib, suites
from rich import console, table

from gpt1_jax import cli
from gpt1_jax.errors import RunError, UserError

_SUITES = ('train', 'gpu', 'generate', 'finetune', 'prepare')  # of `suites`
_SUITE = flags.DEFINE_enum(
  'suite', None, _SUITES, 'What to compare.', required=True
)
_JSON = flags.DEFINE_bool('json', False, 'Print one JSON object at the end.')
_STEPS = flags.DEFINE_integer(
  'steps', 2, 'Updates per repetition.', lower_bound=1
)
_REPEATS = flags.DEFINE_integer(
  'repeats', 5, 'Repetitions per candidate.', lower_bound=1
)
_QUICK = flags.DEFINE_bool(
  'quick', False, 'Use tiny sizes, to check that everything runs.'
)
_DATA = flags.DEFINE_string(
  'data',
  None,
  'Folder with real data: tasks/glue for finetune, books/*.txt for prepare '
  '(default: the language reference that ships with Python).',
)


def main() -> None:
  suite = _SUITE.value
  if suite == 'finetune' and not _DATA.value:
    raise UserError('--suite=finetune needs --data, a folder with tasks/glue')
  options = suites.Options(
    steps=_STEPS.value,
    repeats=_REPEATS.value,
    quick=_QUICK.value,
    data=_DATA.value,
    say=lambda line: print(line, file=sys.stderr, flush=True),
  )
  load = os.getloadavg()[0]
  rows = getattr(suites, suite)(options)
  machine = {
    'cpu': machine_lib.processor(),
    'threads': len(os.sched_getaffinity(0)),
    'load': load,
    **options.versions,
  }
  width = None if sys.stdout.isatty() else 150
  out = console.Console(highlight=False, soft_wrap=True, width=width)
  title = f'--suite={suite}, {datetime.date.today()}'
  caption = ', '.join(f'{name} {value}' for name, value in machine.items())
  out.print(report(rows, title, caption))
  if _JSON.value:
    values = [dataclasses.asdict(row) | {'ratio': row.ratio} for row in rows]
    print(json.dumps({'suite': suite, 'machine': machine, 'rows': values}))
  if options.failed:
    raise RunError(f'{", ".join(options.failed)} failed, see above')


def report(rows: Sequence[suites.Row], title: str, caption: str) -> table.Table:
  out = table.Table(title=title, caption=caption)
  out.add_column('measurement')
  for name in ('ours', 'reference', 'theirs', 'ratio'):
    out.add_column(name, justify='right')
  for row in rows:
    ratio = 'not measured' if row.ratio is None else f'{row.ratio:.2f}'
    ours, theirs = _figure(row.ours, row.unit), _figure(row.theirs, row.unit)
    out.add_row(row.name, ours, row.reference, theirs, ratio)
  return out


def _figure(value: float | None, unit: str) -> str:
  """Formats a value with three digits and a unit, such as '2.69 GB'."""
  if value is None:
    return 'not measured'
  for divisor, prefix in ((1e9, 'G'), (1e6, 'M'), (1e4, 'k')):
    if value >= divisor:
      return f'{value / (1e3 if prefix == "k" else divisor):.3g} {prefix}{unit}'
  return f'{value:.3g} {unit}'


if __name__ == '__main__':
  cli.run(main)
