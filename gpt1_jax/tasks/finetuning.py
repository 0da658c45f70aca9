"""Fine-tunes one task, once for each seed (P §3.2, §3.3, §4.1).

A `Finetuner` reads the data and compiles once. Its runs differ only by their
seed, an argument of the compiled functions.
"""

import dataclasses
import functools
from collections.abc import Sequence
from typing import Any

import jax

from gpt1_jax import config as config_lib
from gpt1_jax.config import FinetuneConfig
from gpt1_jax.model import models
from gpt1_jax.tasks import (
  baselines,
  batches,
  features,
  initialization,
  metrics,
  predictions,
  scores as scores_lib,
  table,
)
from gpt1_jax.tasks.definition import Task
from gpt1_jax.tasks.examples import Example, read
from gpt1_jax.tasks.readers import sources
from gpt1_jax.tasks.scores import Metrics, Scores
from gpt1_jax.train import (
  belonging,
  checkpoint,
  hosts,
  lock,
  loop,
  optim,
  profiling,
  program,
  run as run_lib,
  score_file,
  sharding,
  step,
)
from gpt1_jax.train.pace import Pace


class Finetuner:
  """A task, its data, and the program that trains it."""

  def __init__(
    self,
    config: FinetuneConfig,
    tasks_path: str,
    profile: profiling.Window | None = None,
  ):
    """Reads and checks everything; writes nothing.

    Args:
      tasks_path: config.data.path, or a local copy of it.

    Raises:
      UserError: the task, the run it starts from or the data cannot be used.
    """
    self.config, self._profile = config, profile
    self._mesh = sharding.make_mesh(jax.devices(), **config.mesh.axes)
    # 1. The task, and the run that provides shape and weights.
    self.task = table.resolve(config.task)
    hosts.say(f'{self.task.name}: reading {tasks_path}')
    self._source = initialization.read_source(config)
    self._examples = _read_splits(self.task, tasks_path)
    # Hidden test sets can be large: they become features only when needed.
    self._batches = {
      split: self._lay_out(split)
      for split in self._examples
      if split not in self.task.test_splits
    }
    # 2. The program, compiled at its first call and reused for all seeds.
    sharding.check_divides(
      self._mesh,
      config.data.batch_size,
      config.train.microbatches,
      **self._source.model.divided,
    )
    self._program = self._build()
    self._outputs = predictions.outputs_fn(
      self._program.objective.loss_fn, self._mesh
    )
    counts = (f'{len(rows):,} {s}' for s, rows in self._examples.items())
    hosts.say(
      f'{self.task.name}: {", ".join(counts)} examples; '
      f'{self._program.num_steps:,} updates'
    )
    for split, found in self._batches.items():
      for notice in found.notices():
        hosts.say(f'{self.task.name}: {split}: {notice}')

  @property
  def description(self) -> run_lib.RunDescription:
    """Describes the run for config.json."""
    model = self._source.model
    return {
      'model': dataclasses.asdict(model),
      'parameters': models.num_parameters(model),
      'layers_transferred': self._source.layers,
      'num_steps': self._program.num_steps,
      'tokenizer_fingerprint': self._source.tokenizer.fingerprint,
    }

  def run(self, workdir: str, number: int) -> Scores:
    """Trains to the end, resuming from the last checkpoint, and scores.

    Args:
      workdir: run directory; of several seeds, that of this one.
      number: added to train.seed and data.seed.
    """
    config = self.config.with_seed(number)
    values = config_lib.as_dict(config)
    run_lib.changes(workdir, 'finetune', values)
    header = run_lib.header('finetune', values, self.description)
    belonging.check(workdir, header)
    optim.warn_of_warmup(config.optim, self._program.num_steps)
    with sharding.use(self._mesh), lock.held(workdir):
      state = self._train(workdir, config)
      # Scores the checkpoint that is best on the dev set.
      best = checkpoint.read(workdir)
      params = sharding.like(best.params, state.params)
      splits, remarks = self._score(workdir, params)
    metric = self.task.metrics[0]
    scores: Scores = {
      'task': self.task.name,
      'kind': self.task.kind,
      'split': 'dev',
      'examples': len(self._examples['dev']),
      'metric': metric,
      'score': splits['dev'][metric],
      'metrics': splits['dev'],
      'splits': splits,
      'counts': {
        split: {'examples': made.num_examples, 'cut': made.num_cut}
        for split, made in (
          (split, found.features) for split, found in self._batches.items()
        )
      },
      'remarks': remarks,
      'baselines': self._baselines,
      'step': best.step,
      'updates': int(state.step),
      'num_steps': self._program.num_steps,
      'seed': config.train.seed,
      'init_from': config.init_from,
      'model': dataclasses.asdict(self._source.model),
      'commit': run_lib.commit(),
    }
    if jax.process_index() == 0:
      score_file.write(workdir, scores)
      summary = scores_lib.line(scores, config.train.patience)
      print(f'{workdir}: {summary}')
      for remark in (baselines.line(self._baselines, metric), *remarks):
        print(f'{workdir}: {remark}')
    return scores

  @functools.cached_property
  def _baselines(self) -> dict[str, Metrics]:
    """Scores of the simple methods on dev, the same for all seeds."""
    examples = self._examples
    return baselines.score(self.task, examples['train'], examples['dev'])

  def _build(self) -> program.Program:
    """Builds the program; its fresh state has the pretrained weights."""
    config, source = self.config, self._source
    coef = config.head.lm_coef
    network = models.new(source.model)
    head = initialization.new_head(self.task, config.head)
    objective = program.Objective(
      network,
      functools.partial(initialization.init_params, network, head),
      step.finetune_loss(
        network,
        head,
        coef,
        config.head.lm_reduction,
        (self.task.bounds or (0.0,))[0],
      ),
      f'task + {coef:g} x language model' if coef else 'task',
    )
    num_steps = config.train.updates(self._batches['train'].steps_per_epoch)
    built = program.build(
      objective,
      config.optim,
      num_steps,
      self._mesh,
      config.train,
      config.mesh,
    )
    if source.params is None:
      return built

    def new_state(seed: jax.Array) -> step.TrainState:
      state = built.new_state(seed)
      assert source.layers is not None
      params = initialization.transfer(
        source.params, state.params, source.layers
      )
      return state.replace(params=params)

    return dataclasses.replace(built, new_state=new_state)

  def _train(self, workdir: str, config: FinetuneConfig) -> step.TrainState:
    laid_out = self._batches['train'].features
    train = self._batch(laid_out, 'train', config.data.seed)
    every = config.train.eval_every or train.steps_per_epoch
    metric = f'eval_{self.task.metrics[0]}'
    run = run_lib.Run(
      workdir,
      run_lib.header('finetune', config_lib.as_dict(config), self.description),
      self._source.tokenizer,
      label=f'finetune {self.task.name}',
      seed=config.train.seed,
      pace=Pace(config.train, every, every, metric, config.train.patience),
      meta=checkpoint.CheckpointMeta(
        self._source.model, self._source.tokenizer.fingerprint, self.task.name
      ),
      profile=self._profile,
    )
    about = (
      f'{config.data.path}: {len(self._examples["train"]):,} examples, '
      f'{config.data.batch_size} per update'
    )
    data = loop.TrainingData(train, self._evaluate, about)
    return loop.run_training(self._program, run, data)[0]

  def _lay_out(self, split: str) -> batches.Batches:
    laid_out = features.build(
      self.task,
      self._examples[split],
      self._source.tokenizer,
      self._source.model.n_ctx,
      self.config.data.truncation,
    )
    return self._batch(laid_out, split, self.config.data.seed)

  def _batch(
    self, laid_out: features.Features, split: str, seed: int
  ) -> batches.Batches:
    data = self.config.data
    settings = batches.BatchSettings(
      data.batch_size,
      seed,
      data.lengths,
      train=split == 'train',
      drop_last=data.drop_last,
    )
    host_rows = sharding.host_rows(self._mesh, data.batch_size)
    return batches.Batches(laid_out, settings, host_rows)

  def _evaluate(self, params: Any) -> Metrics:
    """Returns the metrics of the dev set."""
    dev = self._batches['dev']
    labels = dev.features.labels
    assert labels is not None  # dev always has labels
    scores = predictions.score(self.task, labels, self._outputs(params, dev))
    return {f'eval_{name}': value for name, value in scores.items()}

  def _score(
    self, workdir: str, params: Any
  ) -> tuple[dict[str, Metrics], list[str]]:
    """Predicts all splits but train; writes the files.

    Returns:
      The metrics of the splits with labels, and remarks on scores that say
      little.
    """
    scores, remarks = {}, []
    for split, examples in self._examples.items():
      if split == 'train':
        continue
      if split not in self._batches:
        self._batches[split] = self._lay_out(split)
      found = self._batches[split]
      outputs = self._outputs(params, found)
      labels = found.features.labels
      if labels is not None:
        scores[split] = predictions.score(self.task, labels, outputs)
        values = predictions.predict(self.task, outputs)
        remarks += [f'{split}: {x}' for x in metrics.remarks(labels, values)]
      lock.check(workdir)
      if jax.process_index() == 0:
        predictions.write(workdir, self.task, split, examples, outputs)
    return scores, remarks


def _read_splits(task: Task, path: str) -> dict[str, Sequence[Example]]:
  """Reads train and dev, and the other splits that exist."""
  found: dict[str, Sequence[Example]] = {}
  for split in ('train', *task.dev_splits, *task.test_splits):
    if split in ('train', 'dev') or sources.has(task, path, split):
      found[split] = read(task, path, split)
  hosts.agree({f'data of {task.name}': found})
  return found
