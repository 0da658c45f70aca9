"""Declares the keys of a run's files that the report reads.

Files of other programs have the same names (config.json, scores.json), so each
file is checked before it is used.
"""

import os
from collections.abc import Callable
from typing import Annotated, Any, Literal, NotRequired

import pydantic

# pydantic rejects typing.TypedDict before Python 3.12.
from typing_extensions import TypedDict

from gpt1_jax import mistakes, storage
from gpt1_jax.errors import UserError
from gpt1_jax.tasks.scores import Count, Number
from gpt1_jax.tasks.zero_shot.results import ZeroShotScore

Metrics = dict[str, Number]  # metric -> score between -1 and 1


class _Examples(TypedDict):
  examples: Count


class _Spread(TypedDict):
  values: Annotated[list[Number], pydantic.Field(min_length=1)]


class TuningScores(TypedDict):
  """Keys of a fine-tuning run's scores.json; see `tasks.scores.Scores`."""

  metric: str
  split: str
  splits: dict[str, Metrics]
  counts: dict[str, _Examples]
  score: Number
  seed: int
  updates: NotRequired[Count | None]
  baselines: NotRequired[dict[str, Metrics]]
  spread: NotRequired[dict[str, dict[str, _Spread]]]
  seeds: NotRequired[list[int]]


class PretrainingScores(TypedDict):
  """Keys of a pretraining run's scores.json."""

  step: Count
  tokens_seen: Count
  eval_perplexity: Number
  eval_word_perplexity: Number
  eval_bits_per_byte: NotRequired[Number]


def _shape(**types: Any) -> Any:
  """Returns a pydantic model with these keys: type, or (type, default)."""
  fields: dict[str, Any] = {
    name: kind if isinstance(kind, tuple) else (kind, ...)
    for name, kind in types.items()
  }
  return pydantic.create_model('Shape', **fields)


_BOTH = {
  'model': _shape(kind=(str, ''), n_layer=(Count, 1), dtype=(str, '')),
  'parameters': Count,
  'commit': str | None,
  'num_steps': (Count, 0),
}
_PRETRAIN = _shape(
  **_BOTH,
  command=Literal['pretrain'],
  config=_shape(
    optim=dict[str, object],
    data=_shape(path=str, batch_size=Count),
  ),
)
_FINETUNE = _shape(
  **_BOTH,
  command=Literal['finetune'],
  config=_shape(
    task=str | dict[str, object],
    init_from=str,
    transfer=_shape(layers=int),
    head=_shape(lm_coef=Number),
    optim=_shape(peak_lr=Number, variant=str),
    train=_shape(
      num_epochs=Number, num_steps=Count, patience=(Count, 0), seeds=Count
    ),
    data=_shape(batch_size=Count),
  ),
)
_CONVERT = _shape(**_BOTH, command=Literal['convert'])
_COMMANDS: Any = _PRETRAIN | _FINETUNE | _CONVERT
_BY_COMMAND: Any = Annotated[_COMMANDS, pydantic.Discriminator('command')]
HEADER: pydantic.TypeAdapter[Any] = pydantic.TypeAdapter(_BY_COMMAND)
TUNING_SCORES = pydantic.TypeAdapter(TuningScores)
PRETRAINING_SCORES = pydantic.TypeAdapter(PretrainingScores)
ZERO_SHOT = pydantic.TypeAdapter(list[ZeroShotScore])


def read(
  path: storage.Path,
  adapter: pydantic.TypeAdapter[Any],
  reader: Callable[[storage.Path], Any] = storage.read_json,
) -> Any:
  """Reads a JSON file that must have the adapter's shape.

  Returns:
    The file's content, including keys that the adapter does not declare.

  Raises:
    UserError: the file cannot be read or has a different shape.
  """
  try:
    content = reader(path)
  except (OSError, RecursionError) as error:
    raise UserError(f'{path}: cannot be read ({error})') from None
  return check(content, path, adapter)


def check(
  content: Any,
  source: str | os.PathLike[str],
  adapter: pydantic.TypeAdapter[Any],
) -> Any:
  """Returns `content` if it has the adapter's shape.

  Raises:
    UserError: it does not; the message names the first difference.
  """
  try:
    adapter.validate_python(content)
  except pydantic.ValidationError as error:
    raise UserError(
      f'{source}: not written by gpt1_jax, or damaged ({mistakes.first(error)})'
    ) from None
  return content
