"""Labels new texts with a fine-tuned run."""

import pathlib
from collections.abc import Iterable, Sequence

import jax
from absl import logging

from gpt1_jax import config as config_lib
from gpt1_jax.config import FinetuneConfig
from gpt1_jax.errors import UserError
from gpt1_jax.model import models
from gpt1_jax.tasks import (
  batches,
  features,
  initialization,
  predictions,
  table,
)
from gpt1_jax.tasks.definition import Task
from gpt1_jax.tasks.examples import (
  Example,
  check_choices,
  example,
  warn_of_empty,
)
from gpt1_jax.tasks.readers import archives, rows
from gpt1_jax.train import (
  belonging,
  checkpoint,
  file_shapes,
  hosts,
  run as run_lib,
  score_file,
  sharding,
  step as step_lib,
)


class Labeller:
  """A fine-tuned run, loaded once to label any number of texts."""

  def __init__(self, workdir: str, step: int | None, batch_size: int):
    """Loads a run.

    Args:
      workdir: a fine-tuned run; if it has several seeds, the best is loaded.
      step: checkpoint; None means the best.
      batch_size: examples per device in a batch.

    Raises:
      UserError: the run was not fine-tuned, or cannot be read.
    """
    workdir, self._config = _open(workdir)
    self.task = table.resolve(self._config.task)
    params, meta, _ = checkpoint.read(workdir, step)
    self._tokenizer = belonging.tokenizer(workdir, meta)
    self._n_ctx = meta.model.n_ctx
    self._batch_size = batch_size * jax.device_count()
    self._mesh = sharding.make_mesh(jax.devices())
    head = initialization.new_head(self.task, self._config.head)
    network = models.new(meta.model)
    loss_fn = step_lib.finetune_loss(network, head, 0.0, 'tokens')
    self._outputs = predictions.outputs_fn(loss_fn, self._mesh)
    self._params = sharding.replicate(params, self._mesh)

  def answer(self, examples: Sequence[Example]) -> list[dict[str, object]]:
    """Returns `prediction` and, for classes and choices, `probabilities`."""
    laid_out = features.build(
      self.task,
      examples,
      self._tokenizer,
      self._n_ctx,
      self._config.data.truncation,
    )
    if notice := laid_out.cut_notice():
      logging.warning(notice)
    made = batches.Batches(
      laid_out,
      batches.BatchSettings(
        self._batch_size, lengths=self._config.data.lengths
      ),
      sharding.host_rows(self._mesh, self._batch_size),
    )
    with sharding.use(self._mesh):
      outputs_NY = self._outputs(self._params, made)
    return list(predictions.named(self.task, examples, outputs_NY))

  def label(self, file: str) -> list[dict[str, object]]:
    """Returns the rows of a file, each with its answer added.

    Args:
      file: `.jsonl`, `.csv` or `.tsv` with the columns of the task's texts.

    Raises:
      UserError: a row cannot be used.
    """
    cells, examples = _read(self.task, file)
    warn_of_empty(file, examples)
    hosts.agree({'--input': examples})
    answers = self.answer(examples)
    return [row | answer for row, answer in zip(cells, answers, strict=True)]


def examples(
  task: Task, texts: Iterable[str | Sequence[str | Sequence[str]]]
) -> list[Example]:
  """Returns unlabelled examples of a task.

  Args:
    task: the task.
    texts: an item per example: its text, or a sequence of its texts; for
      choice, the last of them is the list of answers.

  Raises:
    UserError: an item has the wrong number or type of texts.
  """
  found = []
  has_answers = task.kind == 'choice'
  for number, item in enumerate(texts):
    several = isinstance(item, Sequence) and not isinstance(item, str)
    parts = list(item) if several else [item]
    answers = parts.pop() if has_answers and parts else ()
    if (
      len(parts) != len(task.texts)
      or isinstance(answers, str)
      or not all(isinstance(x, str) for x in (*parts, *answers))
    ):
      raise UserError(
        f'example {number}: {task.name} takes {", ".join(task.texts)}'
        + ' and a list of answers' * has_answers
      )
    found.append(Example(tuple(map(str, parts)), tuple(map(str, answers))))
  return found


def _open(workdir: str) -> tuple[str, FinetuneConfig]:
  """Returns the folder with the checkpoints, and the run's configuration."""
  header = run_lib.load_any(workdir)
  if header['command'] != 'finetune':
    raise UserError(
      f'{workdir}: a {header["command"]} run has no labels; give the --workdir '
      'of a finetune command'
    )
  config = config_lib.parse(FinetuneConfig, header['config'])
  if config.train.seeds > 1 and score_file.path(workdir).exists():
    scores = score_file.read(workdir, file_shapes.TUNING_SCORES)
    workdir = f'{workdir}/seed-{scores.get("best_seed", config.train.seed)}'
  return workdir, config


def _read(task: Task, file: str) -> tuple[list[rows.Cells], list[Example]]:
  """Reads the rows; ignores a column of labels."""
  needed = rows.STORY if task.layout == 'stories' else task.texts
  cells, examples = [], []
  for row in rows.read(archives.Source(pathlib.Path(file)), needed):
    used = {k: v for k, v in row.cells.items() if k != task.label}
    if task.layout == 'stories':
      used = rows.story(used)
    unlabelled = rows.Row(row.where, used, row.extra)
    examples.append(example(task, unlabelled, hidden_allowed=True))
    cells.append(row.cells)
  check_choices(examples)
  return cells, examples
