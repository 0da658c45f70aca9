"""One run of fine-tuning, several seeds, or the paper's tasks in turn.

What is finished is read back and not run again.
"""

from typing import Any

import jax

from gpt1_jax import cli, staging, storage
from gpt1_jax.errors import UserError
from gpt1_jax.tasks import finetuning, initialization, summary, table
from gpt1_jax.tasks.readers import sources
from gpt1_jax.train import run


def finetune(
  config: dict[str, Any], workdir: str, stage_to: str = staging.STAGE_TO
) -> dict[str, Any]:
  """Fine-tunes and scores: one run, several seeds, or all tasks.

  Args:
    config: the whole configuration, as plain values.
    workdir: run directory.
    stage_to: folder that holds copies of data in a bucket.

  Returns:
    What scores.json holds; for all tasks, task -> that.

  Raises:
    UserError: the configuration or the data cannot be, or a run failed.
  """
  if config.get('task') == 'all':
    return _all(config, workdir, stage_to)
  job = finetuning.Tuning(config, stage_to)
  seeded = bool(list(storage.path(workdir).glob('seed-*/config.json')))
  single = (storage.path(workdir) / 'checkpoints').exists()
  if job.settings.seeds == 1 and not seeded:
    return job.run(workdir, 0)
  if single or job.settings.seeds == 1:
    raise UserError(
      f'{workdir}: holds {"one run" if single else "runs of several seeds"}, '
      f'and config.train.seeds is {job.settings.seeds}; give another --workdir'
    )
  return _seeds(job, workdir)


def _seeds(job: finetuning.Tuning, workdir: str) -> dict[str, Any]:
  """One run after another, the finished ones read back."""
  run.start(workdir, 'finetune', job.config, job.facts)
  results = []
  for number in range(job.settings.seeds):
    config = finetuning.one_seed(job.config, number)
    folder = f'{workdir}/seed-{config["train"]["seed"]}'
    there = finished(folder, config)
    results.append(there or job.run(folder, number))
  result = summary.over_seeds(results)
  spread = result['spread']['dev'][result['metric']]
  if jax.process_index() == 0:
    _gather(storage.path(workdir), [f'seed-{result["best_seed"]}'])
    storage.write_json(f'{workdir}/scores.json', result)
    print(
      f'{workdir}: {result["task"]} dev {result["metric"]} over '
      f'{len(results)} seeds: median {spread["median"]:.4f}, minimum '
      f'{spread["minimum"]:.4f}, maximum {spread["maximum"]:.4f}'
    )
  return result


def _all(config: dict[str, Any], workdir: str, stage_to: str) -> dict[str, Any]:
  """The twelve tasks in turn; one that fails does not keep the others."""
  # What is wrong with all of them is said once, and what is missing at once.
  if (storage.path(workdir) / 'config.json').exists():
    raise UserError(f'{workdir}: holds a run; give another --workdir')
  cli.sections(config, *finetuning.SECTIONS)
  initialization.source(config)
  path = config['data'].get('path')
  if path:
    path = staging.fetch(path, stage_to)
  results: dict[str, Any] = {}
  for name in table.TWELVE:
    missing = not sources.is_tfds(path) and not sources.has(
      table.TASKS[name], path, 'train'
    )
    if missing and jax.process_index() == 0:
      print(
        f'{name}: not found in {config["data"].get("path")}; the other tasks '
        'are run'
      )
  for name in table.TWELVE:
    one, folder = {**config, 'task': name}, f'{workdir}/{name}'
    try:
      results[name] = finished(folder, one) or finetune(one, folder, stage_to)
    except UserError as error:
      results[name] = {'error': str(error)}
      if jax.process_index() == 0:
        print(f'{name}: {error}')
    if jax.process_index() == 0:
      _write_summary(storage.path(workdir), results)
  markdown = summary.markdown(results)
  if jax.process_index() == 0:
    print(
      f'\n{markdown}\n{workdir}/results.md and results.json hold this table'
    )
  failed = [name for name in results if 'error' in results[name]]
  if failed:
    raise UserError(
      f'{len(failed)} of {len(results)} tasks have no score '
      f'({", ".join(failed)}); the reasons stand below the table. Started '
      'again, only these are run'
    )
  return results


def finished(workdir: str, config: dict[str, Any]) -> dict[str, Any] | None:
  """Scores of a finished run of this configuration.

  Raises:
    UserError: the folder holds another run.
  """
  scores = storage.path(workdir) / 'scores.json'
  if not scores.exists():
    return None
  run.start(workdir, 'finetune', config, {})
  result = storage.read_json(scores)
  seeds = len(result.get('seeds', [0]))
  return result if seeds == config['train']['seeds'] else None


def _write_summary(workdir: storage.Path, results: dict[str, Any]) -> None:
  storage.write_json(workdir / 'results.json', results)
  storage.write_text(workdir / 'results.md', summary.markdown(results))
  _gather(workdir, list(results))


def _gather(workdir: storage.Path, folders: list[str]) -> None:
  """Copies the submission files of runs below into WORKDIR/submission."""
  for folder in folders:
    for file in sorted((workdir / folder / 'submission').glob('*.tsv')):
      storage.write_bytes(workdir / 'submission' / file.name, file.read_bytes())
