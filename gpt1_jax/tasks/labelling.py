"""Labels new texts with a fine-tuned run."""

import pathlib
from collections.abc import Iterator

import jax

from gpt1_jax import config as config_lib, storage
from gpt1_jax.config import FinetuneConfig
from gpt1_jax.corpus import tokenization
from gpt1_jax.errors import UserError
from gpt1_jax.model import models
from gpt1_jax.tasks import (
  batches,
  examples as examples_lib,
  features,
  initialization,
  predictions,
  table,
)
from gpt1_jax.tasks.definition import Task
from gpt1_jax.tasks.readers import archives, rows
from gpt1_jax.train import (
  checkpoint,
  run as run_lib,
  sharding,
  step as step_lib,
)


def label(
  workdir: str, file: str, step: int | None, batch_size: int
) -> Iterator[dict[str, object]]:
  """Yields each row of a file with its prediction.

  Args:
    workdir: a fine-tuned run; of a run of several seeds, the best one answers.
    file: `.jsonl`, `.csv` or `.tsv` with the columns of the task's texts.
    step: checkpoint; None takes the best.
    batch_size: examples per device in a batch.

  Yields:
    The columns of the row, `prediction`, and for classes and choices
    `probabilities`.

  Raises:
    UserError: the run is not a fine-tuned one, or a row cannot be used.
  """
  workdir, config = _open(workdir)
  task = table.resolve(config.task)
  cells, examples = _read(task, file)
  params, meta, _ = checkpoint.read(workdir, step)
  laid_out = features.build(
    task,
    examples,
    tokenization.load(workdir),
    meta.model.n_ctx,
    config.data.truncation,
  )
  mesh = sharding.make_mesh(jax.devices(), data=-1, fsdp=1, tensor=1)
  batch_size *= jax.device_count()
  made = batches.Batches(
    laid_out,
    batches.BatchSettings(batch_size, lengths=config.data.lengths),
    sharding.host_rows(mesh, batch_size),
  )
  head = initialization.new_head(task, config.head)
  loss_fn = step_lib.finetune_loss(models.new(meta.model), head, 0.0, 'tokens')
  with sharding.use(mesh):
    replicated = sharding.replicated(mesh)
    params = jax.tree.map(lambda x: sharding.put(x, replicated), params)
    outputs_NY = predictions.outputs_fn(loss_fn, mesh)(params, made)
  named = predictions.named(task, examples, outputs_NY)
  for row, answer in zip(cells, named, strict=True):
    yield {**row, **answer}


def _open(workdir: str) -> tuple[str, FinetuneConfig]:
  """Returns the folder with the checkpoints, and the run's configuration."""
  header = run_lib.load(workdir)
  if header['command'] != 'finetune':
    raise UserError(
      f'{workdir}: a {header["command"]} run has no labels; give the --workdir '
      'of a finetune command'
    )
  config = config_lib.parse(FinetuneConfig, header['config'])
  scores = storage.path(workdir) / 'scores.json'
  if config.train.seeds > 1 and scores.exists():
    workdir = f'{workdir}/seed-{storage.read_json(scores)["best_seed"]}'
  return workdir, config


def _read(
  task: Task, file: str
) -> tuple[list[rows.Cells], list[examples_lib.Example]]:
  """Reads the rows; a column of labels, if there is one, is not looked at."""
  needed = rows.STORY if task.layout == 'stories' else task.texts
  cells, examples = [], []
  for row in rows.read(archives.Source(pathlib.Path(file)), needed):
    used = {k: v for k, v in row.cells.items() if k != task.label}
    if task.layout == 'stories':
      used = rows.story(used)
    unlabelled = rows.Row(row.where, used, row.extra)
    examples.append(examples_lib.example(task, unlabelled, hidden_allowed=True))
    cells.append(row.cells)
  examples_lib.check_choices(examples)
  return cells, examples
