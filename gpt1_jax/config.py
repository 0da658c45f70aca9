"""Typed configurations of both stages, validated once, all errors together.

The values live in configs/*.py. A command turns its ConfigDict into a
`PretrainConfig` or `FinetuneConfig` with `parse`; other code sees no dict.
"""

import dataclasses
import json
from collections.abc import Iterator, Mapping
from typing import Annotated, Any, Literal, TypeVar, cast

import pydantic
from pydantic import Field

from gpt1_jax import mistakes, settings, task_settings
from gpt1_jax.errors import UserError
from gpt1_jax.settings import STRICT, AtLeastOne

BatchSize = Annotated[int, Field(ge=1, le=2**20)]
DataSeed = Annotated[int, Field(ge=0, lt=2**32)]
Name = Annotated[str, Field(min_length=1)]
Values = dict[str, Any]  # a configuration: setting, or section -> its settings
NEIGHBOURS = 'neighbours'
FROM_TEXT = ('frequencies', NEIGHBOURS)  # values of init_from that count tokens
FROM_SCRATCH = ('none', *FROM_TEXT)  # and those that name no folder
_TASK_SECTIONS = {'task', 'transfer', 'head'}  # of FinetuneConfig alone
T = TypeVar('T')


@pydantic.dataclasses.dataclass(frozen=True, kw_only=True, config=STRICT)
class PretrainTrainSettings(settings.TrainSettings):
  """config.train for pretraining.

  Attributes:
    eval_every: updates between evaluations.
    checkpoint_every: updates between checkpoints.
    sample_tokens: length of the text sampled at each evaluation; 0: none.
  """

  eval_every: AtLeastOne
  checkpoint_every: AtLeastOne
  sample_tokens: settings.Count


@pydantic.dataclasses.dataclass(frozen=True, kw_only=True, config=STRICT)
class FinetuneTrainSettings(settings.TrainSettings):
  """config.train for fine-tuning.

  Attributes:
    eval_every: updates between evaluations, each after a save; 0 evaluates
      after each epoch.
    patience: stop after this many consecutive evaluations without a better
      dev score; 0 trains to the end. The schedule spans the full length
      either way, and the checkpoint with the best dev score is kept and
      scored (C: train.py).
    seeds: number of runs; each adds 1 to train.seed and data.seed.
  """

  patience: settings.Count
  seeds: AtLeastOne


@pydantic.dataclasses.dataclass(frozen=True, kw_only=True, config=STRICT)
class PretrainDataSettings:
  """config.data for pretraining.

  Attributes:
    path: folder of token shards written by `prepare`.
    batch_size: windows of n_ctx tokens per batch (P §4.1: 64).
    seed: shuffles the windows.
    cross_documents: True lets a window span several documents.
  """

  path: Name
  batch_size: BatchSize
  seed: DataSeed
  cross_documents: bool


@pydantic.dataclasses.dataclass(frozen=True, kw_only=True, config=STRICT)
class FinetuneDataSettings:
  """config.data for fine-tuning.

  Attributes:
    path: folder, zip or tar of the task's files, or tfds[:FOLDER].
    batch_size: examples per batch (P §4.1: 32).
    seed: shuffles the examples.
    lengths: sequence lengths to compile for; a batch is padded to the shortest
      that fits.
    truncation: 'room' cuts only sequences longer than n_ctx; 'halves' cuts each
      text of a pair to n_ctx // 2 - 2 tokens (C: train.py).
    drop_last: True drops an incomplete last batch of an epoch (C: train.py).
  """

  path: Name
  batch_size: BatchSize
  seed: DataSeed
  lengths: Annotated[tuple[AtLeastOne, ...], Field(min_length=1)]
  truncation: Literal['room', 'halves']
  drop_last: bool


@pydantic.dataclasses.dataclass(frozen=True, kw_only=True, config=STRICT)
class PretrainConfig:
  """The whole configuration of `pretrain`.

  Attributes:
    init_from: folder of the weights to start from: a run, OpenAI's released
      files or a Hugging Face folder. 'none' initialises randomly (P §4.1);
      'frequencies' then adds each token's log frequency in the training text
      to its logit; 'neighbours' also embeds tokens by those beside them.
  """

  init_from: Name
  model: Annotated[
    settings.GPTSettings | settings.LSTMSettings, Field(discriminator='kind')
  ]
  optim: settings.OptimSettings
  train: PretrainTrainSettings
  data: PretrainDataSettings
  mesh: settings.MeshSettings

  @property
  def folder_of_weights(self) -> str | None:
    """The folder that `init_from` names; None if it names none."""
    return None if self.init_from in FROM_SCRATCH else self.init_from

  @pydantic.model_validator(mode='after')
  def _sums_in_a_computed_type(self) -> 'PretrainConfig':
    self.mesh.check_reduce_dtype(self.model.dtype)
    return self

  @pydantic.model_validator(mode='after')
  def _start_fits(self) -> 'PretrainConfig':
    model = self.model
    if self.init_from in FROM_TEXT and (
      model.kind != 'gpt' or model.softmax_rows != 'tokens'
    ):
      raise ValueError(
        f'init_from is {self.init_from}: needs model.kind=gpt and '
        'model.softmax_rows=tokens; use --config.init_from=none'
      )
    return self


@pydantic.dataclasses.dataclass(frozen=True, kw_only=True, config=STRICT)
class FinetuneConfig:
  """The whole configuration of `finetune`.

  Attributes:
    task: a name in tasks.table.TASKS, 'all', or a user-defined task.
    init_from: the pretrained run (RUN or RUN@STEP), or 'none' to train from
      scratch.
    like: when training from scratch, the run that provides the model's shape
      and tokenizer.
  """

  task: task_settings.TaskSetting
  init_from: Name
  like: str
  transfer: task_settings.TransferSettings
  model: Annotated[
    settings.FinetuneGPTSettings | settings.FinetuneLSTMSettings,
    Field(discriminator='kind'),
  ]
  head: task_settings.HeadSettings
  optim: settings.OptimSettings
  train: FinetuneTrainSettings
  data: FinetuneDataSettings
  mesh: settings.MeshSettings

  @pydantic.model_validator(mode='after')
  def _sums_in_a_computed_type(self) -> 'FinetuneConfig':
    self.mesh.check_reduce_dtype(self.model.dtype)
    return self

  def with_seed(self, number: int) -> 'FinetuneConfig':
    """Returns the configuration of run `number` of `train.seeds`, run alone."""
    return dataclasses.replace(
      self,
      train=dataclasses.replace(
        self.train, seed=self.train.seed + number, seeds=1
      ),
      data=dataclasses.replace(self.data, seed=self.data.seed + number),
    )

  @pydantic.model_validator(mode='after')
  def _seeds_are_in_range(self) -> 'FinetuneConfig':
    more = self.train.seeds - 1
    if self.train.seed + more >= 2**31 or self.data.seed + more >= 2**32:
      raise ValueError(
        f'train.seeds is {self.train.seeds}: train.seed or data.seed would '
        'exceed its largest value'
      )
    return self

  @pydantic.model_validator(mode='after')
  def _names_a_run(self) -> 'FinetuneConfig':
    if self.init_from == 'none' and not self.like:
      raise ValueError(
        'init_from is none: set --config.like=RUN to the run that provides '
        'the model shape and tokenizer'
      )
    if self.init_from != 'none' and self.like:
      raise ValueError(
        f'init_from is {self.init_from!r} and like is {self.like!r}: give only '
        'init_from for a pretrained model, only like to train from scratch'
      )
    return self


def parse(kind: type[T], values: Mapping[str, Any]) -> T:
  """Validates `values` and returns them as a `kind`.

  Args:
    kind: PretrainConfig, FinetuneConfig, or the model configuration class that
      a checkpoint recorded.
    values: plain nested values, from ConfigDict.to_dict() or JSON.

  Raises:
    UserError: the configuration is for the other command, or some values are
      invalid. Each error is one line with the key, its value and the allowed
      values; for an unknown key, the closest known key.
  """
  sections = _TASK_SECTIONS & set(values)
  if kind is FinetuneConfig and not sections:
    raise UserError('--config: this configuration is for pretrain')
  if kind is PretrainConfig and sections == _TASK_SECTIONS:
    raise UserError('--config: this configuration is for finetune')
  found, errors = _read(kind, values)
  if errors:
    raise mistakes.refusal(kind, errors)
  return cast(T, found)


def check(values: Mapping[str, Any]) -> None:
  """Raises UserError for invalid settings; ignores those not set yet."""
  kind = FinetuneConfig if set(values) >= _TASK_SECTIONS else PretrainConfig
  _, errors = _read(kind, values)
  if errors := [error for error in errors if error['input'] is not None]:
    raise mistakes.refusal(kind, errors)


def _read(
  kind: type[T], values: Mapping[str, Any]
) -> tuple[T | None, list[Any]]:
  """Returns the configuration, or None and what is wrong with the values."""
  try:
    text = json.dumps(values, default=str)  # 1j becomes '1j': refused
  except (TypeError, ValueError) as error:  # such as 5,000 digits
    raise UserError(f'config: a value is not JSON: {error}') from None
  try:
    return pydantic.TypeAdapter(kind).validate_json(text), []
  except pydantic.ValidationError as error:
    return None, error.errors()


def check_warmup(values: Mapping[str, Any]) -> None:
  """Refuses a warm-up that the user sets longer than the run.

  A preset's warm-up may exceed a run that is cut short; that only warns.

  Raises:
    UserError: the message names both settings.
  """
  warmup = values['optim'].get('warmup')
  num_steps = values['train'].get('num_steps')
  if not all(isinstance(x, int | float) and x > 0 for x in (warmup, num_steps)):
    return  # another check refuses it, or the run is given in epochs
  if max(1, warmup) > num_steps:
    raise UserError(
      f'config.optim.warmup is {warmup:g}: longer than the run of '
      f'{num_steps:g} updates (config.train.num_steps); give fewer, or a '
      'fraction of all updates, such as 0.1'
    )


def as_dict(config: PretrainConfig | FinetuneConfig) -> Values:
  """Returns the configuration as plain values, as stored in config.json."""
  values = dataclasses.asdict(config)
  if isinstance(values.get('task'), dict):  # drops what the user did not set
    values['task'] = {k: v for k, v in values['task'].items() if v is not None}
  return values


def as_flags(values: Mapping[str, Any]) -> str:
  """Formats plain nested values as flags, one --config.KEY=VALUE per line."""
  flat = _flat(values, '--config')
  return '\n'.join(
    f'{key}={value}' if value is not None else f'{key} is not set'
    for key, value in flat
  )


def _flat(values: Any, key: str) -> Iterator[tuple[str, Any]]:
  if not isinstance(values, dict):
    yield key, values
    return
  for name, value in values.items():
    yield from _flat(value, f'{key}.{name}')
