r"""Fine-tunes a grid of tasks and ablations, each over several seeds.

  python launch/sweep.py --output=runs/sweep --init_from=runs/mini \
      --tasks=cola,rte --ablations=full,scratch,no_aux,layers:0,layers:1 \
      --seeds=3 --data_path=glue --config=configs/finetune.py:mini

Runs `python -m gpt1_jax.finetune` for one job after another, in
OUTPUT/TASK/ABLATION with a log beside it. After each job, writes all scores to
OUTPUT/summary.md and summary.json. Ablations (P Table 5, Figure 2):

  full      starts from --init_from, all layers, with the auxiliary LM loss
  scratch   starts from random weights: shape and tokenizer of --init_from
  no_aux    leaves out the auxiliary LM loss
  layers:K  transfers the embeddings and the first K layers
  lstm      starts from --lstm, a run of configs/pretrain.py:lstm

--config.KEY=VALUE applies to all jobs. The same command resumes an interrupted
sweep and skips finished jobs; a failed job does not stop the others. To split
the jobs over four processes, start them with --hosts=4, --host=0 to 3 and the
same --output.
"""

import dataclasses
import fcntl
import pathlib
import shlex
import subprocess
import sys
import time
from collections.abc import Sequence

import checkout
from absl import flags

from gpt1_jax import cli, config, interrupts, storage
from gpt1_jax.errors import RunError, UserError
from gpt1_jax.tasks import all_tasks, summary, table
from gpt1_jax.tasks.scores import Failure, Scores
from gpt1_jax.train import belonging

_CONFIG = cli.define_config(
  'configs/finetune.py',
  'Configuration file and words for all jobs, such as '
  'configs/finetune.py:tiny.',
)
_OUTPUT = flags.DEFINE_string('output', None, 'Folder to write.', required=True)
_INIT_FROM = flags.DEFINE_string(
  'init_from', None, 'Pretrained run.', required=True
)
_LSTM = flags.DEFINE_string('lstm', None, 'Pretrained LSTM run.')
_TASKS = flags.DEFINE_list('tasks', None, 'Task names, or all.', required=True)
_ABLATIONS = flags.DEFINE_list('ablations', ['full'], 'Ablations: see above.')
_SEEDS = flags.DEFINE_integer('seeds', 1, 'Seeds per job.', lower_bound=1)
_DATA = flags.DEFINE_string(
  'data_path', None, 'Value of config.data.path.', required=True
)
_HOSTS = flags.DEFINE_integer('hosts', 1, 'Processes that share the jobs.')
_HOST = flags.DEFINE_integer('host', 0, 'Number of this process, from 0.')
_DRY_RUN = flags.DEFINE_bool(
  'dry_run', False, 'Print the commands without running them.'
)

_WORDS = ('scratch', 'no_aux', 'lstm')  # words of configs/finetune.py
# Settings that the grid controls, and the flag that sets each.
_OWN_SETTINGS = {
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
  """A cell of the grid: task and ablation, configuration and command line."""

  name: str
  workdir: pathlib.Path
  config: config.FinetuneConfig
  words: list[str]

  @property
  def log(self) -> pathlib.Path:
    return self.workdir.with_name(self.workdir.name + '.log')

  @property
  def error(self) -> pathlib.Path:
    """File with the reason if the job failed."""
    return self.workdir.with_name(self.workdir.name + '.error')


def main() -> None:
  """Runs this process's share of the grid and prints the table."""
  host, hosts = _HOST.value, _HOSTS.value
  if not 0 <= host < hosts:
    raise UserError(
      f'--hosts={hosts} --host={host}: give a host from 0 to hosts - 1'
    )
  tasks = _TASKS.value
  names = table.TWELVE if tasks == ['all'] else tasks
  for name in names:
    if name not in table.TASKS:
      known = ', '.join(table.TASKS)
      raise UserError(f'--tasks: no task {name!r}; use {known}')
  grid = [make_job(task, name) for task in names for name in _ABLATIONS.value]
  mine = grid[host::hosts]
  if _DRY_RUN.value:
    for job in mine:
      print(shlex.join(['python', *job.words[1:]]))
    return
  belonging.check_free(_OUTPUT.value, *table.TASKS, 'summary.*')
  failed = []
  for number, job in enumerate(mine, 1):
    if not run(job, f'[{number}/{len(mine)}] {job.name}'):
      failed.append(job.name)
    markdown = write_summary(grid)
  print(markdown)
  if failed:
    raise RunError(
      f'{len(failed)} of {len(mine)} jobs failed ({", ".join(failed)}): see '
      'the reasons below the table; the same command retries only these'
    )


def make_job(task: str, ablation: str) -> Job:
  """Returns a cell of the grid; refuses unknown ablations and settings."""
  settings: dict[str, object] = {'init_from': _INIT_FROM.value}
  kind, _, layers = ablation.partition(':')
  if ablation == 'scratch':
    settings = {'like': _INIT_FROM.value}
  elif ablation == 'lstm':
    settings = {'init_from': cli.required('lstm', _LSTM.value)}
  elif kind == 'layers' and layers.isdecimal():
    settings['transfer.layers'] = int(layers)
  elif ablation not in ('full', *_WORDS):
    raise UserError(
      f'--ablations: no ablation {ablation!r}; use full, '
      f'{", ".join(_WORDS)}, layers:K'
    )
  settings |= {'train.seeds': _SEEDS.value, 'data.path': _DATA.value}
  path, _, general = _CONFIG.value.partition(':')
  given = [word for word in general.split(',') if word]
  if set(given) & {*_WORDS, *table.TASKS}:
    raise UserError(
      f'--config={path}:{general}: give tasks with --tasks and ablations with '
      '--ablations'
    )
  overrides = [word for word in sys.argv if word.startswith('--config.')]
  for word in overrides:
    key = word.removeprefix('--config.').partition('=')[0]
    if key in _OWN_SETTINGS:
      raise UserError(f'--config.{key}: use {_OWN_SETTINGS[key]} instead')
  words = [ablation] if ablation in _WORDS else []
  spec = f'{path}:{",".join([task, *words, *given])}'
  values = cli.config_values(spec)
  for key, value in settings.items():
    section, _, name = key.rpartition('.')
    (values[section] if section else values)[name] = value
  workdir = pathlib.Path(_OUTPUT.value) / task / ablation.replace(':', '-')
  return Job(
    f'{task} {ablation}',
    workdir,
    config.parse(config.FinetuneConfig, values),
    [
      *(sys.executable, '-m', 'gpt1_jax.finetune'),
      *(f'--config={spec}', f'--workdir={workdir}'),
      *(f'--config.{key}={value}' for key, value in settings.items()),
      *overrides,
    ],
  )


def run(job: Job, place: str) -> bool:
  """Runs a job unless it is finished; returns True if it has a score."""
  result = read_result(job)
  if 'score' in result:
    print(f'{place}: {_score(result)}, already finished', flush=True)
    return True
  job.workdir.parent.mkdir(parents=True, exist_ok=True)
  start = time.monotonic()
  # The job inherits the locked log file. If only this process is killed, no
  # other sweep can start the running job again.
  with job.log.open('a', encoding='utf-8') as log:
    try:
      fcntl.flock(log, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
      print(f'{place}: failed: another process is running it', flush=True)
      return False
    log.truncate(0)
    print(f'{place}: running, see {log.name}', flush=True)
    job.error.unlink(missing_ok=True)
    process = None
    try:
      with interrupts.delayed():  # so that no job outlives the sweep
        process = subprocess.Popen(
          job.words, stdout=log, stderr=log, env=checkout.environment()
        )
      code = process.wait()
    except BaseException:
      if process:
        process.terminate()
        process.wait()
      raise
  if code:
    storage.write_text(storage.path(job.error), _reason(job.log, code) + '\n')
  result = read_result(job)
  seconds = time.monotonic() - start
  print(f'{place}: {_score(result)}, {seconds:.0f} s', flush=True)
  return 'score' in result


def read_result(job: Job) -> Scores | Failure:
  """Returns the content of scores.json, or {'error': reason}."""
  try:
    scores = all_tasks.finished(str(job.workdir), job.config)
  except UserError as error:
    return {'error': str(error)}
  if scores is not None:
    return scores
  failed = job.error.exists()
  return {'error': job.error.read_text().strip() if failed else 'not run'}


def write_summary(grid: Sequence[Job]) -> str:
  """Writes summary.json and summary.md for all jobs; returns the table."""
  results = {job.name: read_result(job) for job in grid}
  output = storage.path(_OUTPUT.value)
  storage.write_json(output / 'summary.json', results)
  markdown = (
    f'From {_INIT_FROM.value}; medians over {_SEEDS.value} seeds, times 100.'
    f'\n\n{summary.markdown(results)}'
  )
  storage.write_text(output / 'summary.md', markdown)
  return markdown


def _score(result: Scores | Failure) -> str:
  if 'error' in result:
    return f'failed: {result["error"]}'
  return f'{result["split"]} {result["metric"]} {100 * result["score"]:.1f}'


def _reason(log: pathlib.Path, code: int) -> str:
  """Returns the last error line of a log, or else its last line."""
  text = log.read_text('utf-8', errors='replace')
  lines = [line.strip() for line in text.splitlines() if line.strip()]
  errors = [line for line in lines if line.startswith('error: ')]
  last = (errors or lines or ['no message'])[-1].removeprefix('error: ')
  return f'{last} (exit code {code}, {log})'


if __name__ == '__main__':
  cli.run(main)
