"""Builds either kind of model: the GPT, or the LSTM of P §5."""

from collections.abc import Mapping
from typing import Annotated, Any

import pydantic

from gpt1_jax import config
from gpt1_jax.errors import UserError
from gpt1_jax.model import gpt, lstm
from gpt1_jax.settings import GPTConfig, LSTMConfig, ModelConfig

Model = gpt.GPT | lstm.LSTM
# Settings that must be equal for one model to take the weights of another.
SHAPE = ('kind', 'n_layer', 'n_head', 'n_embd', 'n_ctx', 'units')
_RECORDED: Any = Annotated[
  GPTConfig | LSTMConfig, pydantic.Field(discriminator='kind')
]


def config_class(kind: str) -> type[GPTConfig] | type[LSTMConfig]:
  """Returns the configuration class of a kind of model, 'gpt' or 'lstm'."""
  return {'gpt': GPTConfig, 'lstm': LSTMConfig}[kind]


def read(recorded: Mapping[str, Any]) -> ModelConfig:
  """Parses the model configuration that a checkpoint recorded.

  Raises:
    UserError: the record is damaged; one line for each wrong key.
  """
  return config.parse(_RECORDED, recorded)


def new(model: ModelConfig) -> Model:
  """Returns the network of a configuration."""
  return gpt.GPT(model) if isinstance(model, GPTConfig) else lstm.LSTM(model)


def check_shape(source: str, theirs: ModelConfig, ours: ModelConfig) -> None:
  """Checks that a model can take the weights of another.

  Args:
    source: the flag that names the other model, and its value.
    theirs: the other model.

  Raises:
    UserError: their shapes differ; the message names each setting that does.
  """
  if theirs.kind != ours.kind:
    raise UserError(
      f'{source}: its model is a {theirs.kind}, config.model.kind is '
      f'{ours.kind}; use a preset with a {theirs.kind}'
    )
  wanted = {name: getattr(theirs, name, None) for name in SHAPE}
  wanted = {k: v for k, v in wanted.items() if v != getattr(ours, k, None)}
  if wanted:
    has = ', '.join(
      f'{name} {value} (here {getattr(ours, name)})'
      for name, value in wanted.items()
    )
    same = ' '.join(f'--config.model.{k}={v}' for k, v in wanted.items())
    raise UserError(
      f'{source}: its model has {has}; weights fit the same shape only: give '
      f'{same}, or start from random weights'
    )


def num_parameters(model: ModelConfig) -> int:
  """Returns the number of parameters."""
  return _module(model).num_parameters(model)


def flops_per_token(model: ModelConfig) -> float:
  """Returns model FLOPs for each token of an update, forward and backward."""
  return _module(model).flops_per_token(model)


def masked_flops_per_token(model: ModelConfig) -> float:
  """Returns the part of `flops_per_token` spent on masked scores."""
  if isinstance(model, GPTConfig):
    return 6.0 * model.n_layer * model.n_ctx * model.n_embd
  return 0.0


def _module(model: ModelConfig) -> Any:
  return gpt if isinstance(model, GPTConfig) else lstm
