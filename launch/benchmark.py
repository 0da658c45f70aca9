r"""Measures this project side by side with others, as ratios.

  python launch/benchmark.py --suite=train
  python launch/benchmark.py --suite=finetune --data=../shared/data --json

Suites: train (the training step on a CPU), checkpoint (an asynchronous one a
minute beside it), generate, finetune, data (input pipeline and `prepare`), tpu
(the step compiled for a slice; needs libtpu).
Every candidate runs in a process of its own; repetitions alternate, and the
figures are medians. The peers come with pip install '.[peers]'; what is not
installed is left out, with a sentence. docs/performance.md says more.
"""

import datetime
import json
import sys
from typing import Any

import checkout  # noqa: F401
from absl import flags
from benchmarks import data as data_suite, machine, results, suites
from rich import console, table

from gpt1_jax import cli
from gpt1_jax.errors import UserError

_SUITES = {
  'train': suites.train,
  'checkpoint': suites.checkpoint,
  'generate': suites.generate,
  'finetune': suites.finetune,
  'data': data_suite.data,
  'tpu': suites.tpu,
}

_SUITE = flags.DEFINE_enum('suite', None, list(_SUITES), 'What to measure.')
_JSON = flags.DEFINE_bool('json', False, 'One JSON object as the last line.')
_STEPS = flags.DEFINE_integer('steps', 2, 'Updates of one repetition.')
_REPEATS = flags.DEFINE_integer('repeats', 5, 'Repetitions of each candidate.')
_QUICK = flags.DEFINE_bool(
  'quick', False, 'A tiny model and little text: seconds, and no figures.'
)
_DATA = flags.DEFINE_string(
  'data',
  None,
  'Folder of real text: books/*.txt for the suite data (else the text that '
  'Python carries), tasks/glue for finetune.',
)
_TOPOLOGY = flags.DEFINE_string(
  'topology', 'v5e:2x2', 'Slice of the suite tpu; or local, this machine.'
)


def main(argv: list[str]) -> None:
  del argv
  if not _SUITE.value:
    raise UserError('--suite is missing: one of ' + ', '.join(_SUITES))
  for name in ('steps', 'repeats'):
    if flags.FLAGS[name].value < 1:
      raise UserError(f'--{name} is {flags.FLAGS[name].value}: at least 1')
  if _SUITE.value == 'finetune' and not _DATA.value:
    raise UserError('--suite=finetune: give --data, a folder with tasks/glue')
  options = results.Options(
    preset='tiny' if _QUICK.value else 'paper',
    vocab_size=1000 if _QUICK.value else 40_478,
    steps=_STEPS.value,
    repeats=_REPEATS.value,
    quick=_QUICK.value,
    data=_DATA.value,
    topology=_TOPOLOGY.value,
    say=lambda line: print(line, file=sys.stderr, flush=True),
  )
  facts = machine.facts(options)
  rows = _SUITES[_SUITE.value](options)
  width = None if sys.stdout.isatty() else 150
  out = console.Console(highlight=False, soft_wrap=True, width=width)
  out.print(report(rows, facts, _SUITE.value))
  if _JSON.value:
    rows = [row.to_json() for row in rows]
    print(json.dumps({'suite': _SUITE.value, 'machine': facts, 'rows': rows}))
  if options.failed:
    raise UserError(
      f'{", ".join(options.failed)} failed, see above; the rest was measured'
    )


def report(
  rows: list[results.Row], facts: dict[str, Any], suite: str
) -> table.Table:
  """The rows, and the machine they are of."""
  out = table.Table(
    title=f'--suite={suite}, {datetime.date.today()}',
    caption=machine.sentence(facts),
  )
  for name in ('what', 'ours', 'reference', 'theirs', 'ratio', 'goal', 'met'):
    out.add_column(name, justify='left' if name == 'what' else 'right')
  for row in rows:
    goal = ''
    if row.goal is not None:
      goal = f'{"<=" if row.at_most else ">="} {figure(row.goal, "")}'
    out.add_row(
      row.what,
      figure(row.ours, row.unit),
      row.reference,
      figure(row.theirs, row.unit) if row.reference else '',
      figure(row.ratio, '') if row.reference else '',
      goal,
      {None: '', True: 'yes', False: 'no'}[row.met],
    )
  return out


def figure(value: float | None, unit: str) -> str:
  """Three digits, for people."""
  if value is None:
    return 'not measured'
  scale = ''
  if abs(value) >= 1e4:
    divisor, scale = next(
      (d, s) for d, s in ((1e9, 'G'), (1e6, 'M'), (1e3, 'k')) if value >= d
    )
    value /= divisor
  return f'{value:.3g} {scale}{unit}'.strip()


if __name__ == '__main__':
  cli.run(main)
