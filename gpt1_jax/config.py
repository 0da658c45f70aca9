"""The configuration of a stage: read once, every mistake reported at once.

The values live in configs/*.py. A command turns its ConfigDict into a
`PretrainConfig` or a `FinetuneConfig` with `parse`; all other code receives
these objects and never sees a dict.
"""

import dataclasses
import json
from collections.abc import Iterator, Mapping
from typing import Annotated, Any, Literal, TypeVar

import pydantic
from pydantic import Field

from gpt1_jax import mistakes, settings
from gpt1_jax.errors import UserError
from gpt1_jax.settings import STRICT, AtLeastOne, DropoutRate

BatchSize = Annotated[int, Field(ge=1, le=2**20)]
DataSeed = Annotated[int, Field(ge=0, lt=2**32)]
Words = tuple[str, ...]
# Labels may be numbers: (0, 1) spells them 0 and 1.
Labels = tuple[Annotated[str, pydantic.BeforeValidator(str)], ...]
T = TypeVar('T')


@pydantic.dataclasses.dataclass(frozen=True, kw_only=True, config=STRICT)
class PretrainTrainSettings(settings.TrainSettings):
  """config.train of pretraining; checkpoint_every is in updates."""

  eval_every: AtLeastOne
  checkpoint_every: AtLeastOne


@pydantic.dataclasses.dataclass(frozen=True, kw_only=True, config=STRICT)
class FinetuneTrainSettings(settings.TrainSettings):
  """config.train of fine-tuning.

  Attributes:
    eval_every: 0 evaluates, and saves, after each epoch.
    seeds: runs; each takes the next train.seed and the next data.seed.
  """

  seeds: AtLeastOne


@pydantic.dataclasses.dataclass(frozen=True, kw_only=True, config=STRICT)
class PretrainDataSettings:
  """config.data of pretraining.

  Attributes:
    path: folder of token shards that `prepare` wrote.
    batch_size: windows of n_ctx tokens in a batch (P §4.1: 64).
    seed: of the order of the windows.
    cross_documents: True lets a window span documents.
  """

  path: str
  batch_size: BatchSize
  seed: DataSeed
  cross_documents: bool


@pydantic.dataclasses.dataclass(frozen=True, kw_only=True, config=STRICT)
class FinetuneDataSettings:
  """config.data of fine-tuning.

  Attributes:
    path: folder, zip or tar of the task's files, or tfds[:FOLDER].
    batch_size: examples in a batch (P §4.1: 32).
    seed: of the order of the examples.
    lengths: widths that are compiled; a batch takes the least that holds it.
    truncation: 'room' cuts what does not fit; 'halves' cuts each text of a
      pair to n_ctx // 2 - 2 tokens (C: train.py).
    drop_last: leaves out the examples that do not fill the last batch of an
      epoch (C: train.py).
  """

  path: str
  batch_size: BatchSize
  seed: DataSeed
  lengths: Annotated[tuple[AtLeastOne, ...], Field(min_length=1)]
  truncation: Literal['room', 'halves']
  drop_last: bool


@pydantic.dataclasses.dataclass(frozen=True, kw_only=True, config=STRICT)
class TransferSettings:
  """config.transfer: blocks taken from the pretrained run; -1 takes all."""

  layers: Annotated[int, Field(ge=-1)]


@pydantic.dataclasses.dataclass(frozen=True, kw_only=True, config=STRICT)
class HeadSettings:
  """config.head: the classifier and its objective.

  Attributes:
    clf_pdrop: dropout rate before the classifier (P §4.1).
    lm_coef: weight of the auxiliary LM loss, lambda of P §3.2.
    lm_reduction: that loss is a mean over 'tokens' (P) or a mean over
      'sequences' of their means (C: train.py).
    regression: a score is one 'scalar' output, or 'classes', one output for
      each whole number within the task's bounds.
  """

  clf_pdrop: DropoutRate
  lm_coef: Annotated[float, Field(ge=0)]
  lm_reduction: Literal['tokens', 'sequences']
  regression: Literal['scalar', 'classes']


@pydantic.dataclasses.dataclass(frozen=True, kw_only=True, config=STRICT)
class OwnTask:
  """config.task as a mapping: a task of the user's own.

  What is left out takes the default of `tasks.definition.Task`, which describes
  every key.
  """

  kind: Literal['classification', 'entailment', 'similarity', 'choice']
  name: str = 'own'
  labels: Labels = ()
  metrics: Words | None = None
  texts: Words | None = None
  choices: str | None = None
  label: str | None = None
  files: dict[str, str | Words] | None = None
  folders: Words = ()
  columns: Words = ()
  bounds: tuple[float, float] | None = None
  cut_rows: bool = False
  dev_share: Annotated[float, Field(ge=0, lt=1)] = 0.0
  tfds: dict[str, str | Words] | None = None
  tfds_texts: Words = ()


def _task_form(value: Any) -> str:
  return 'own' if isinstance(value, Mapping | OwnTask) else 'a name'


TaskSetting = Annotated[
  Annotated[str | None, pydantic.Tag('a name')]
  | Annotated[OwnTask, pydantic.Tag('own')],
  pydantic.Discriminator(_task_form),
]


@pydantic.dataclasses.dataclass(frozen=True, kw_only=True, config=STRICT)
class PretrainConfig:
  """The whole configuration of `pretrain`."""

  model: Annotated[
    settings.GPTSettings | settings.LSTMSettings, Field(discriminator='kind')
  ]
  optim: settings.OptimSettings
  train: PretrainTrainSettings
  data: PretrainDataSettings
  mesh: settings.MeshSettings


@pydantic.dataclasses.dataclass(frozen=True, kw_only=True, config=STRICT)
class FinetuneConfig:
  """The whole configuration of `finetune`.

  Attributes:
    task: a name of tasks.table.TASKS, 'all', or a task of the user's own.
    init_from: the pretrained run, or 'none' to start from scratch.
    like: the run whose shape and tokenizer are taken, from scratch.
  """

  task: TaskSetting
  init_from: str
  like: str
  transfer: TransferSettings
  model: Annotated[
    settings.FinetuneGPTSettings | settings.FinetuneLSTMSettings,
    Field(discriminator='kind'),
  ]
  head: HeadSettings
  optim: settings.OptimSettings
  train: FinetuneTrainSettings
  data: FinetuneDataSettings
  mesh: settings.MeshSettings

  @pydantic.model_validator(mode='after')
  def _names_a_run(self) -> 'FinetuneConfig':
    if self.init_from == 'none' and not self.like:
      raise ValueError(
        'init_from is none: name the run whose shape and tokenizer to take '
        'with --config.like=RUN'
      )
    return self


def parse(kind: type[T], values: Mapping[str, Any]) -> T:
  """Returns `values` as a `kind`, checked.

  Args:
    kind: PretrainConfig, FinetuneConfig, or a model's configuration that a
      checkpoint recorded.
    values: plain nested values, as ConfigDict.to_dict() or JSON has them.

  Raises:
    UserError: one line for each mistake: the key, its value and what is
      allowed; for an unknown key the nearest known one.
  """
  try:
    return pydantic.TypeAdapter(kind).validate_json(json.dumps(values))
  except pydantic.ValidationError as error:
    lines = [mistakes.line(kind, mistake) for mistake in error.errors()]
  if len(lines) == 1:
    raise UserError(lines[0])
  raise UserError('\n  '.join([f'{len(lines)} settings are wrong:', *lines]))


def as_dict(config: PretrainConfig | FinetuneConfig) -> dict[str, Any]:
  """Returns the configuration as plain values, as config.json holds them."""
  values = dataclasses.asdict(config)
  if isinstance(values.get('task'), dict):  # only what the user set
    values['task'] = {k: v for k, v in values['task'].items() if v is not None}
  return values


def as_flags(values: Mapping[str, Any]) -> str:
  """Returns plain nested values as flags, one --config.KEY=VALUE a line."""
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
