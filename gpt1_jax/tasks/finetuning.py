"""One task, fine-tuned once for each seed (P §3.2, §3.3, §4.1).

A `Tuning` reads the data and compiles once; its runs differ by their seed
alone, which the compiled functions take as an argument.
"""

import contextlib
import copy
import dataclasses
import functools
from collections.abc import Sequence
from typing import Any

import jax
import jax.numpy as jnp

from gpt1_jax import cli, staging, storage
from gpt1_jax.corpus import (
  tokenization,
)
from gpt1_jax.model import models
from gpt1_jax.tasks import (
  examples as examples_lib,
  features as features_lib,
  initialization,
  predictions,
  table,
)
from gpt1_jax.tasks.readers import sources
from gpt1_jax.train import (
  checkpoint,
  loop,
  optim,
  run,
  sharding,
  step as step_lib,
  telemetry,
)

SECTIONS = (
  'task',
  'init_from',
  'like',
  'transfer',
  'model',
  'head',
  'optim',
  'train',
  'data',
  'mesh',
)


@dataclasses.dataclass(frozen=True)
class TrainSettings:
  """config.train of fine-tuning."""

  num_steps: int
  num_epochs: float
  log_every: int
  eval_every: int
  keep: int
  microbatches: int
  seed: int
  seeds: int


@dataclasses.dataclass(frozen=True)
class DataSettings:
  """config.data of fine-tuning."""

  path: str
  batch_size: int
  seed: int
  lengths: tuple[int, ...]
  truncation: str
  drop_last: bool


class Tuning:
  """A task, its data and what is compiled for it."""

  def __init__(self, config: dict[str, Any], stage_to: str = staging.STAGE_TO):
    """Reads and checks everything; nothing is written.

    Args:
      config: the whole configuration, as plain values.
      stage_to: folder that holds copies of data in a bucket.

    Raises:
      UserError: whatever of it cannot be.
    """
    parts = cli.sections(config, *SECTIONS)
    self.config = config
    self.settings = cli.fill('train', TrainSettings, parts['train'])
    self._data = cli.fill('data', DataSettings, parts['data'])
    at_least_one = ('log_every', 'keep', 'microbatches', 'seeds')
    cli.positive('train', parts['train'], *at_least_one)
    head_settings = cli.fill('head', initialization.HeadSettings, parts['head'])
    self._mesh = cli.fill(
      'mesh', sharding.make_mesh, parts['mesh'], devices=jax.devices()
    )
    # 1. The task, and the run whose shape (and weights) are taken.
    self.task = table.resolve(config['task'])
    source, self._pretrained, self._model_config = initialization.source(config)
    self._layers = initialization.num_layers(
      cli.fill('transfer', initialization.TransferSettings, parts['transfer']),
      source,
      self._model_config,
      scratch=self._pretrained is None,
    )
    self._tokenizer = tokenization.load(source)
    self._place = staging.fetch(self._data.path, stage_to)
    examples = self._read()
    # Large hidden test sets are laid out when they are needed.
    self._tests = {
      split: examples.pop(split)
      for split in self.task.test_splits
      if split in examples
    }
    self._batches = {
      split: self._lay_out(split, rows) for split, rows in examples.items()
    }
    # 2. Everything that can be refused is refused before any computation.
    self._num_steps = cli.num_steps(
      self.settings.num_steps,
      self.settings.num_epochs,
      self._batches['train'].steps_per_epoch,
    )
    optimizer, rate = cli.fill(
      'optim',
      optim.make_optimizer,
      parts['optim'],
      num_steps=self._num_steps,
    )
    sharding.check_divides(
      self._mesh,
      self._data.batch_size,
      self.settings.microbatches,
      **self._model_config.divided,
    )
    model = models.new(self._model_config)
    head = initialization.new_head(self.task, head_settings)
    self._loss_fn = step_lib.finetune_loss(
      model,
      head,
      head_settings.lm_coef,
      head_settings.lm_reduction,
      (self.task.bounds or (0.0,))[0],
    )
    # 3. What is compiled, when it is first called, for all seeds.
    with sharding.use(self._mesh):
      self._new_state, shardings = sharding.jit_init(
        functools.partial(initialization.new_state, model, head, optimizer),
        self._mesh,
        jnp.uint32(0),
      )
      self._train_step = step_lib.jit_seeded_step(
        self._loss_fn,
        optimizer,
        rate,
        shardings,
        sharding.batch_sharding(self._mesh),
        microbatches=self.settings.microbatches,
      )
    self._outputs = predictions.outputs_fn(self._loss_fn, self._mesh)

  @property
  def facts(self) -> dict[str, Any]:
    """What config.json records beside the configuration."""
    return {
      'model': vars(self._model_config),
      'parameters': models.num_parameters(self._model_config),
      'layers_transferred': self._layers,
      'num_steps': self._num_steps,
      'tokenizer_fingerprint': self._tokenizer.fingerprint,
    }

  def run(self, workdir: str, number: int) -> dict[str, Any]:
    """Trains to the end, or goes on where it stopped, and scores.

    Args:
      workdir: of this run alone.
      number: is added to both seeds, that of training and that of the data.

    Returns:
      What scores.json holds.
    """
    config = one_seed(self.config, number)
    run.start(workdir, 'finetune', config, self.facts)
    if jax.process_index() == 0:
      self._tokenizer.save(f'{workdir}/tokenizer')
    with sharding.use(self._mesh):
      state = self._fit(workdir, config['train']['seed'], number)
      # The best checkpoint on the dev set is the one that counts.
      best, _, best_step = checkpoint.read(workdir)
      scores = self._score(workdir, sharding.like(best, state.params))
    result = {
      'task': self.task.name,
      'kind': self.task.kind,
      'split': 'dev',
      'examples': self._batches['dev'].features.num_examples,
      'metric': self.task.metrics[0],
      'score': scores['dev'][self.task.metrics[0]],
      'metrics': scores['dev'],
      'splits': scores,
      'counts': {
        split: {
          'examples': batches.features.num_examples,
          'cut': batches.features.num_cut,
        }
        for split, batches in self._batches.items()
      },
      'step': best_step,
      'seed': config['train']['seed'],
      'init_from': config['init_from'],
      'model': vars(self._model_config),
      'commit': run.commit(),
    }
    if jax.process_index() == 0:
      storage.write_json(f'{workdir}/scores.json', result)
      print(
        f'{workdir}: {self.task.name} dev {result["metric"]} '
        f'{result["score"]:.4f} on {result["examples"]} examples, best after '
        f'{best_step} updates'
      )
    return result

  def _read(self) -> dict[str, Sequence[examples_lib.Example]]:
    """Examples of train and dev, and of the other splits that are there."""
    found = {}
    for split in ('train', *self.task.dev_splits, *self.task.test_splits):
      if split in ('train', 'dev') or sources.has(
        self.task, self._place, split
      ):
        found[split] = examples_lib.read(self.task, self._place, split)
    return found

  def _lay_out(
    self, split: str, rows: Sequence[examples_lib.Example]
  ) -> features_lib.Batches:
    features = features_lib.build(
      self.task,
      rows,
      self._tokenizer,
      self._model_config.n_ctx,
      self._data.truncation,
    )
    return self._batch(features, split, self._data.seed)

  def _batch(
    self, features: features_lib.Features, split: str, seed: int
  ) -> features_lib.Batches:
    return features_lib.Batches(
      features,
      self._data.batch_size,
      seed,
      self._data.lengths,
      train=split == 'train',
      rows=sharding.host_rows(self._mesh, self._data.batch_size),
      drop_last=self._data.drop_last,
    )

  def _fit(self, workdir: str, seed: int, number: int) -> step_lib.TrainState:
    """State: fresh, then the pretrained weights, then this run's own."""
    placed = step_lib.place_seed(seed, self._mesh)
    state = self._new_state(placed)
    train = self._batch(
      self._batches['train'].features, 'train', self._data.seed + number
    )
    every = self.settings.eval_every or train.steps_per_epoch
    with contextlib.closing(
      checkpoint.Checkpoints(workdir, keep=self.settings.keep, keep_best=True)
    ) as checkpoints:
      if checkpoints.latest_step is not None:
        state = checkpoints.restore(checkpoints.latest_step, state)
      elif self._pretrained is not None:
        params = initialization.transfer(
          self._pretrained, state.params, self._layers
        )
        state = state.replace(params=params)
      with telemetry.Telemetry(
        workdir,
        start_step=int(state.step),
        num_steps=self._num_steps,
        flops_per_token=models.flops_per_token(self._model_config),
        label=f'finetune {self.task.name}',
      ) as log:
        state, _ = loop.fit(
          state,
          lambda state, batch: self._train_step(state, batch, placed),
          mesh=self._mesh,
          batch_fn=train.batch,
          num_steps=self._num_steps,
          log_every=self.settings.log_every,
          eval_every=every,
          checkpoint_every=every,
          evaluate=self._evaluate,
          best_metric=f'eval_{self.task.metrics[0]}',
          checkpoints=checkpoints,
          meta={
            'model': vars(self._model_config),
            'tokenizer_fingerprint': self._tokenizer.fingerprint,
            'task': self.task.name,
          },
          log=log,
        )
    return state

  def _evaluate(self, params: Any) -> dict[str, float]:
    """Metrics of the dev set."""
    dev = self._batches['dev']
    scores = predictions.score(self.task, dev, self._outputs(params, dev))
    return {f'eval_{name}': value for name, value in scores.items()}

  def _score(self, workdir: str, params: Any) -> dict[str, dict[str, float]]:
    """Scores of all splits but train, where labels are known; their files."""
    for split in list(self._tests):
      self._batches[split] = self._lay_out(split, self._tests.pop(split))
    scores = {}
    for split, batches in self._batches.items():
      if split == 'train':
        continue
      values = self._outputs(params, batches)
      if batches.features.labelled:
        scores[split] = predictions.score(self.task, batches, values)
      if jax.process_index() == 0:
        predictions.write_predictions(
          workdir, self.task, split, batches, values
        )
        if split in self.task.submission:
          predictions.write_submission(workdir, self.task, split, values)
    return scores


def one_seed(config: dict[str, Any], number: int) -> dict[str, Any]:
  """The configuration of one of several runs, as if it were run by itself."""
  config = copy.deepcopy(config)
  config['train'] |= {'seed': config['train']['seed'] + number, 'seeds': 1}
  config['data']['seed'] += number
  return config
