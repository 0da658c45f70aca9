"""Checks the shapes of a run's files: config.json and scores.json.

Files of other programs have the same names (config.json, scores.json), and
users edit them, so each file is checked before it is used.
"""

import os
from typing import Annotated, Any, Literal, NotRequired

import pydantic

# pydantic rejects typing.TypedDict before Python 3.12.
from typing_extensions import TypedDict

from gpt1_jax import mistakes
from gpt1_jax.errors import UserError

# Numbers in a run's files, with the bounds that their readers check.
Count = Annotated[int, pydantic.Field(ge=0, le=2**62)]
Number = Annotated[float, pydantic.Field(ge=-1e300, le=1e300)]


def _shape(**types: Any) -> Any:
  """Returns a pydantic model with these keys: type, or (type, default)."""
  fields: dict[str, Any] = {
    name: kind if isinstance(kind, tuple) else (kind, ...)
    for name, kind in types.items()
  }
  return pydantic.create_model('Shape', **fields)


_BOTH = {
  'model': _shape(kind=(str, ''), n_layer=(Count, 1), n_ctx=(Count, 1)),
  'parameters': Count,
  'commit': str | None,
  'num_steps': Count,
  'tokenizer_fingerprint': (str, ''),
  'data_fingerprint': (str, ''),
  'forked_from': (_shape(run=str, step=Count), None),
}
_OPTIM = _shape(peak_lr=Number, variant=str)
_PRETRAIN = _shape(
  **_BOTH,
  command=Literal['pretrain'],
  config=_shape(
    optim=_OPTIM,
    train=_shape(seed=Count),
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
    optim=_OPTIM,
    train=_shape(
      num_epochs=Number,
      num_steps=Count,
      patience=(Count, 0),
      seed=Count,
      seeds=Count,
    ),
    data=_shape(batch_size=Count),
  ),
)
_CONVERT = _shape(**_BOTH, command=Literal['convert'], config=dict[str, object])
_COMMANDS: Any = _PRETRAIN | _FINETUNE | _CONVERT
_BY_COMMAND: Any = Annotated[_COMMANDS, pydantic.Discriminator('command')]
Metrics = dict[str, Number]  # metric -> score between -1 and 1


class _Examples(TypedDict):
  examples: Count


class _Spread(TypedDict):
  values: Annotated[list[Number], pydantic.Field(min_length=1)]


class TuningScores(TypedDict):
  """Keys of a fine-tuning run's scores.json; see `tasks.scores.Scores`."""

  task: str
  metric: str
  split: str
  examples: Count
  splits: dict[str, Metrics]
  counts: dict[str, _Examples]
  score: Number
  seed: int
  step: Count | None
  updates: NotRequired[Count | None]
  baselines: NotRequired[dict[str, Metrics]]
  spread: NotRequired[dict[str, dict[str, _Spread]]]
  seeds: NotRequired[list[int]]
  best_seed: NotRequired[int]


class PretrainingScores(TypedDict):
  """Keys of a pretraining run's scores.json."""

  step: Count
  tokens: Count
  tokens_seen: Count
  eval_perplexity: Number
  eval_word_perplexity: Number
  eval_bits_per_byte: NotRequired[Number]


# The keys of config.json that the commands read.
HEADER: pydantic.TypeAdapter[Any] = pydantic.TypeAdapter(_BY_COMMAND)
TUNING_SCORES = pydantic.TypeAdapter(TuningScores)
PRETRAINING_SCORES = pydantic.TypeAdapter(PretrainingScores)


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
    adapter.validate_python(content, strict=True)
  except pydantic.ValidationError as error:
    raise UserError(
      f'{source}: not written by gpt1_jax, or damaged ({mistakes.first(error)})'
    ) from None
  return content
