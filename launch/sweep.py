r"""A grid of fine-tuning runs: tasks x ablations, each over several seeds.

  python launch/sweep.py --output=runs/sweep --init_from=runs/mini \
      --tasks=cola,rte --ablations=full,scratch,no_aux,layers:0,layers:1 \
      --seeds=3 --data_path=glue --config.optim.peak_lr=2.5e-4

One `python -m gpt1_jax.finetune` after another, each in OUTPUT/TASK/ABLATION
(its log beside it), and after each the table of all that is there:
OUTPUT/summary.md and summary.json. Ablations (P Table 5, Figure 2 left):

  full      from --init_from, all layers, with the auxiliary LM
  scratch   no pretraining: the shape and the tokenizer of --init_from
  no_aux    no auxiliary LM
  layers:K  the embeddings and K layers from below
  lstm      from --lstm, a run of pretrain --config=configs/pretrain.py:lstm

Any other setting of configs/finetune.py may follow and holds for all. Started
again, what is finished is not run again and what was stopped goes on. A job
that fails does not stop the others. --hosts=4 --host=0 takes every fourth job,
beside three like it with --host=1 to 3 and the same --output.
"""

import contextlib
import dataclasses
import fcntl
import json
import os
import pathlib
import runpy
import shlex
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from typing import Any

import checkout  # noqa: F401
from absl import flags
from ml_collections import config_flags

from gpt1_jax import cli
from gpt1_jax.errors import UserError
from gpt1_jax.tasks import all_tasks, summary, table

_CONFIG = config_flags.DEFINE_config_file(
  'config',
  'configs/finetune.py',
  'Configuration file, perhaps with words: configs/finetune.py:tiny.',
)
_OUTPUT = flags.DEFINE_string(
  'output', None, 'Folder of it all.', required=True
)
_INIT_FROM = flags.DEFINE_string('init_from', None, 'A run.', required=True)
_LSTM = flags.DEFINE_string('lstm', None, 'The run of the ablation lstm.')
_TASKS = flags.DEFINE_list(
  'tasks', None, 'all, or names of tasks.', required=True
)
_ABLATIONS = flags.DEFINE_list('ablations', ['full'], 'See above.')
_SEEDS = flags.DEFINE_integer('seeds', 1, 'Runs of each job.')
_DATA = flags.DEFINE_string(
  'data_path', None, 'As config.data.path.', required=True
)
_HOSTS = flags.DEFINE_integer('hosts', 1, 'How many share the jobs.')
_HOST = flags.DEFINE_integer('host', 0, 'Which of them this is, from 0.')
_DRY_RUN = flags.DEFINE_bool('dry_run', False, 'Print the commands, no more.')

WORDS = ('scratch', 'no_aux', 'lstm')
ABLATIONS = 'full, scratch, no_aux, lstm, layers:K'
# What the grid itself sets.
OURS = {
  'task': '--tasks',
  'init_from': '--init_from',
  'like': '--init_from',
  'transfer.layers': '--ablations',
  'head.lm_coef': '--ablations',
  'train.seeds': '--seeds',
  'data.path': '--data_path',
}


@dataclasses.dataclass(frozen=True)
class Job:
  """A cell of the grid.

  Attributes:
    task, ablation: its row and column.
    workdir: of the runs.
    config: what they are run with, as plain values.
    words: the command.
  """

  task: str
  ablation: str
  workdir: pathlib.Path
  config: dict[str, Any]
  words: list[str]

  @property
  def name(self) -> str:
    return f'{self.task} {self.ablation}'

  def beside(self, suffix: str) -> pathlib.Path:
    """A file beside the folder of the runs."""
    return self.workdir.with_name(self.workdir.name + suffix)


def main(argv: list[str]) -> None:
  del argv
  if _SEEDS.value < 1 or not 0 <= _HOST.value < _HOSTS.value:
    raise UserError(
      f'--seeds={_SEEDS.value} --hosts={_HOSTS.value} --host={_HOST.value}: '
      'at least one seed, and a host from 0 to hosts - 1'
    )
  names = table.TWELVE if _TASKS.value == ['all'] else _TASKS.value
  for name in names:
    if name not in table.TASKS:
      raise UserError(f'--tasks: {name!r} is none of ' + ', '.join(table.TASKS))
  grid = [make_job(task, name) for task in names for name in _ABLATIONS.value]
  mine = grid[_HOST.value :: _HOSTS.value]
  if _DRY_RUN.value:
    for job in mine:
      print(shlex.join(['python', *job.words[1:]]))
    return
  signal.signal(signal.SIGTERM, lambda *_: sys.exit(128 + signal.SIGTERM))
  failed = []
  for number, job in enumerate(mine, 1):
    place = f'[{number}/{len(mine)}] {job.name}'
    if not run(job, place):
      failed.append(job.name)
    write_summary(grid)
  print((pathlib.Path(_OUTPUT.value) / 'summary.md').read_text('utf-8'))
  if failed:
    raise UserError(
      f'{len(failed)} of {len(mine)} jobs failed ({", ".join(failed)}); the '
      'reasons stand below the table. Started again, only these are run'
    )


def make_job(task: str, ablation: str) -> Job:
  """A cell: its configuration, and the command that has it.

  Raises:
    UserError: no such ablation, or a setting is not for it.
  """
  kind, _, layers = ablation.partition(':')
  words, settings = [], {'init_from': _INIT_FROM.value}
  if kind == 'layers' and layers.isdecimal():
    settings['transfer.layers'] = int(layers)
  elif ablation in WORDS:
    words = [ablation]
  elif ablation != 'full':
    raise UserError(f'--ablations: {ablation!r} is none of {ABLATIONS}')
  if ablation == 'scratch':
    settings = {'like': _INIT_FROM.value}
  if ablation == 'lstm':
    if not _LSTM.value:
      raise UserError('--ablations=lstm: name the run of an LSTM with --lstm')
    settings = {'init_from': _LSTM.value}
  path, _, general = config_flags.get_config_filename(
    flags.FLAGS['config']
  ).partition(':')
  given = [word for word in general.split(',') if word]
  if set(given) & {*WORDS, *table.TASKS}:
    raise UserError(
      f'--config={path}:{general}: tasks and ablations are given with --tasks '
      'and --ablations'
    )
  overrides = config_flags.get_override_values(flags.FLAGS['config'])
  for key in overrides:
    if key in OURS:
      raise UserError(f'--config.{key}: is set by {OURS[key]}')
  settings |= {'train.seeds': _SEEDS.value, 'data.path': _DATA.value}
  settings |= overrides
  arg = ','.join([task, *words, *given])
  config = runpy.run_path(path)['get_config'](arg).lock()
  try:
    config.update_from_flattened_dict(settings)
  except (KeyError, TypeError, ValueError) as error:
    raise UserError(f'{task} {ablation}: {error.args[0]}') from None
  workdir = pathlib.Path(_OUTPUT.value) / task / ablation.replace(':', '-')
  return Job(
    task,
    ablation,
    workdir,
    config.to_dict(),
    [
      *(sys.executable, '-m', 'gpt1_jax.finetune'),
      *(f'--config={path}:{arg}', f'--workdir={workdir}'),
      *(f'--config.{key}={value}' for key, value in settings.items()),
    ],
  )


def run(job: Job, place: str) -> bool:
  """Runs a job, or finds it finished; says so; whether it has a score."""
  cell = read_cell(job)
  if 'median' in cell:
    print(f'{place}: {_figure(cell)}, finished before', flush=True)
    return True
  job.workdir.parent.mkdir(parents=True, exist_ok=True)
  started = time.monotonic()
  # The lock is the log's, which the job holds open: should this process be
  # killed and not the job, the next one leaves it alone.
  with job.beside('.log').open('a', encoding='utf-8') as log:
    try:
      fcntl.flock(log, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
      print(f'{place}: failed: another process runs it', flush=True)
      return False
    log.truncate(0)
    print(f'{place}: runs, see {log.name}', flush=True)
    job.beside('.error').unlink(missing_ok=True)
    process = None
    try:
      with _sigterm_later():
        process = subprocess.Popen(job.words, stdout=log, stderr=log)
      code = process.wait()
    except BaseException:
      if process:
        process.terminate()
        process.wait()
      raise
  if code:
    _write(job.beside('.error'), _reason(job.beside('.log'), code) + '\n')
  cell = read_cell(job)
  seconds = time.monotonic() - started
  print(f'{place}: {_figure(cell)}, {seconds:.0f} s', flush=True)
  return 'median' in cell


@contextlib.contextmanager
def _sigterm_later() -> Iterator[None]:
  """SIGTERM waits to the end: a job half started would outlive this process."""
  arrived: list[int] = []
  before = signal.signal(signal.SIGTERM, lambda *_: arrived.append(1))
  try:
    yield
  finally:
    signal.signal(signal.SIGTERM, before)
  if arrived:
    os.kill(os.getpid(), signal.SIGTERM)


def read_cell(job: Job) -> dict[str, Any]:
  """What is known of a job: its figures, or an error, or neither."""
  cell: dict[str, Any] = {
    'task': job.task,
    'ablation': job.ablation,
    'workdir': str(job.workdir),
  }
  try:
    scores = all_tasks.finished(str(job.workdir), job.config)
  except UserError as error:
    return cell | {'error': str(error)}
  if scores is None:
    error = job.beside('.error')
    return cell | (
      {'error': error.read_text('utf-8').strip()} if error.exists() else {}
    )
  if 'spread' not in scores:
    scores = summary.over_seeds([scores])
  return cell | {
    'split': scores['split'],
    'metric': scores['metric'],
    **scores['spread'][scores['split']][scores['metric']],
    'seeds': scores['seeds'],
    'spread': scores['spread'],
  }


def write_summary(grid: list[Job]) -> None:
  """summary.json and summary.md of all jobs, whoever runs them."""
  cells = [read_cell(job) for job in grid]
  output = pathlib.Path(_OUTPUT.value)
  _write(output / 'summary.json', json.dumps(cells, indent=1) + '\n')
  reasons = [
    f'- {cell["task"]} {cell["ablation"]}: {cell["error"]}\n'
    for cell in cells
    if 'error' in cell
  ]
  text = (
    f'From {_INIT_FROM.value}; median [minimum, maximum] of {_SEEDS.value} '
    'seeds, times 100.\n\n'
  )
  text += summary.aligned(_table(cells)) + ''.join(['\n', *reasons])
  _write(output / 'summary.md', text)


def _table(cells: list[dict[str, Any]]) -> list[list[str]]:
  """A row for each task, split and metric, a column for each ablation."""
  columns = list(dict.fromkeys(cell['ablation'] for cell in cells))
  rows: dict[tuple[str, str, str], dict[str, str]] = {}
  for cell in cells:
    for split, metrics in cell.get('spread', {}).items():
      for metric, found in metrics.items():
        row = rows.setdefault((cell['task'], split, metric), {})
        row[cell['ablation']] = _range(found)
  for cell in cells:
    if 'error' in cell:
      there = [key for key in rows if key[0] == cell['task']]
      for key in there or [(cell['task'], '', '')]:
        rows.setdefault(key, {})[cell['ablation']] = 'failed'
  order = list(dict.fromkeys(cell['task'] for cell in cells))
  body = [
    [*key, *(row.get(column, 'not run') for column in columns)]
    for key, row in sorted(rows.items(), key=lambda x: order.index(x[0][0]))
  ]
  return [['task', 'split', 'metric', *columns], *body]


def _figure(cell: dict[str, Any]) -> str:
  if 'median' in cell:
    return f'{cell["split"]} {cell["metric"]} {_range(cell)}'
  return f'failed: {cell.get("error", "no score")}'


def _range(found: dict[str, Any]) -> str:
  median, low, high = (
    f'{100 * found[key]:.1f}' for key in ('median', 'minimum', 'maximum')
  )
  return f'{median} [{low}, {high}]'


def _reason(log: pathlib.Path, code: int) -> str:
  """The last line of a log that says what went wrong."""
  lines = log.read_text('utf-8', errors='replace').splitlines()
  lines = [line.strip() for line in lines if line.strip()]
  errors = [line for line in lines if line.startswith('error: ')]
  said = (errors or lines or ['it said nothing'])[-1].removeprefix('error: ')
  return f'{said} (exit code {code}, {log})'


def _write(path: pathlib.Path, text: str) -> None:
  """Atomic; of this process, since several hosts write the same summary."""
  temporary = path.with_name(f'{path.name}.{_HOST.value}.{os.getpid()}.tmp')
  temporary.write_text(text, encoding='utf-8')
  os.replace(temporary, path)


if __name__ == '__main__':
  cli.run(main)
