"""Fine-tunes once, for several seeds, or on each of the paper's tasks.

Finished runs are not repeated: their scores are read.
"""

import dataclasses

import jax

from gpt1_jax import config as config_lib, storage
from gpt1_jax.config import FinetuneConfig
from gpt1_jax.errors import RunError, UserError
from gpt1_jax.tasks import finetuning, initialization, summary, table
from gpt1_jax.tasks.readers import sources
from gpt1_jax.tasks.scores import Failure, Scores
from gpt1_jax.train import belonging, file_shapes, lock, run, score_file
from gpt1_jax.train.profiling import Window

ALL = 'all'


def finetune(
  config: FinetuneConfig,
  workdir: str,
  tasks_path: str,
  profile: Window | None = None,
) -> Scores | dict[str, Scores | Failure]:
  """Fine-tunes and scores: one run, several seeds, or all tasks.

  Args:
    tasks_path: config.data.path, or a local copy of it.

  Returns:
    The content of scores.json; for all tasks, a dict of these by task.

  Raises:
    UserError: the configuration or the data cannot be used, or a run failed.
  """
  with lock.held(workdir):
    if config.task == ALL:
      return _all(config, workdir, tasks_path, profile)
    return _one_task(config, workdir, tasks_path, profile)


def _one_task(
  config: FinetuneConfig, workdir: str, tasks_path: str, profile: Window | None
) -> Scores:
  """Runs one task, once or for several seeds."""
  finetuner = finetuning.Finetuner(config, tasks_path, profile)
  count = config.train.seeds
  seeded = bool(list(storage.path(workdir).glob('seed-*/config.json')))
  single = (storage.path(workdir) / 'checkpoints').exists()
  if count == 1 and not seeded:
    return finetuner.run(workdir, 0)
  if single or count == 1:
    raise UserError(
      f'{workdir}: holds {"one run" if single else "runs of several seeds"}, '
      f'and config.train.seeds is {count}; use another --workdir'
    )
  return _seeds(finetuner, workdir)


def _seeds(finetuner: finetuning.Finetuner, workdir: str) -> Scores:
  """Runs one seed after another; reads the scores of finished ones."""
  config = finetuner.config
  values = config_lib.as_dict(config)
  description = finetuner.description
  belonging.check(workdir, run.header('finetune', values, description))
  run.start(workdir, 'finetune', values, description)
  results = []
  for number in range(config.train.seeds):
    one = config.with_seed(number)
    folder = f'{workdir}/seed-{one.train.seed}'
    results.append(finished(folder, one) or finetuner.run(folder, number))
  result = summary.over_seeds(results)
  spread = result['spread']['dev'][result['metric']]
  if jax.process_index() == 0:
    _copy_submissions(storage.path(workdir), [f'seed-{result["best_seed"]}'])
    score_file.write(workdir, result)
    print(
      f'{workdir}: {result["task"]} dev {result["metric"]} over '
      f'{len(results)} seeds: median {spread["median"]:.4f}, minimum '
      f'{spread["minimum"]:.4f}, maximum {spread["maximum"]:.4f}'
    )
  return result


def _all(
  config: FinetuneConfig,
  workdir: str,
  tasks_path: str,
  profile: Window | None = None,
) -> dict[str, Scores | Failure]:
  """Runs the twelve tasks in turn; a task that fails does not stop the rest."""
  # Reports errors that concern all tasks, and missing files, before training.
  if (storage.path(workdir) / 'config.json').exists():
    raise UserError(f'{workdir}: holds a run; use another --workdir')
  belonging.check_free(workdir, *table.TWELVE, 'results.*', 'submission')
  initialization.read_source(config)
  main = jax.process_index() == 0
  if main:
    _report_missing(tasks_path)
  results: dict[str, Scores | Failure] = {}
  for name in table.TWELVE:
    one = dataclasses.replace(config, task=name)
    folder = f'{workdir}/{name}'
    try:
      results[name] = finished(folder, one) or _one_task(
        one, folder, tasks_path, profile
      )
    except UserError as error:
      results[name] = {'error': str(error)}
      if main:
        print(f'{name}: {error}')
    if main:
      _write_summary(storage.path(workdir), results)
  if main:
    print(
      f'\n{summary.markdown(results)}\n{workdir}/results.md and results.json '
      'hold this table'
    )
  failed = [name for name in results if 'error' in results[name]]
  if failed:
    raise RunError(
      f'{len(failed)} of {len(results)} tasks have no score '
      f'({", ".join(failed)}); the reasons are listed below the table. The '
      'same command runs only these again'
    )
  return results


def _report_missing(tasks_path: str) -> None:
  if sources.tfds_folder(tasks_path) is not None:
    return
  for name in table.TWELVE:
    if not sources.has(table.TASKS[name], tasks_path, 'train'):
      print(f'{name}: not found in {tasks_path}; the other tasks are run')


def finished(workdir: str, config: FinetuneConfig) -> Scores | None:
  """Returns the scores of a finished run of this configuration, or None.

  Raises:
    UserError: the folder holds another run.
  """
  if not score_file.path(workdir).exists():
    return None
  changes = run.changes(workdir, 'finetune', config_lib.as_dict(config))
  if not run.same_length(changes):
    return None
  result: Scores = score_file.read(workdir, file_shapes.TUNING_SCORES)
  count = len(result.get('seeds', [0]))
  return result if count == config.train.seeds else None


def _write_summary(
  workdir: storage.Path, results: dict[str, Scores | Failure]
) -> None:
  workdir.mkdir(parents=True, exist_ok=True)
  storage.write_json(workdir / 'results.json', results)
  storage.write_text(workdir / 'results.md', summary.markdown(results))
  _copy_submissions(workdir, list(results))


def _copy_submissions(workdir: storage.Path, folders: list[str]) -> None:
  """Copies the submission files of all runs into WORKDIR/submission."""
  for folder in folders:
    for file in sorted((workdir / folder / 'submission').glob('*.tsv')):
      (workdir / 'submission').mkdir(parents=True, exist_ok=True)
      content = storage.path(file).read_bytes()
      storage.write_bytes(workdir / 'submission' / file.name, content)
