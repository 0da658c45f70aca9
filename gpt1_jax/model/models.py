"""The model that a configuration is of: the GPT, or the LSTM of P §5.

config.model.kind says which; a checkpoint's model configuration, which holds
it as well, is read back here.
"""

from collections.abc import Mapping
from typing import Any

from gpt1_jax.errors import UserError
from gpt1_jax.model import gpt, lstm

Config = gpt.GPTConfig | lstm.LSTMConfig
Model = gpt.GPT | lstm.LSTM

_MODULES = {'gpt': gpt, 'lstm': lstm}


def config_class(values: Mapping[str, Any]) -> type[Config]:
  """The class that takes a section config.model, by its `kind`.

  Raises:
    UserError: no such kind, or none is given.
  """
  if 'kind' not in values:
    raise UserError('config.model.kind is missing')
  if values['kind'] not in _MODULES:
    raise UserError(
      f'config.model.kind is {values["kind"]!r}: one of ' + ', '.join(_MODULES)
    )
  return gpt.GPTConfig if values['kind'] == 'gpt' else lstm.LSTMConfig


def read(recorded: Mapping[str, Any]) -> Config:
  """The configuration that a checkpoint recorded (`vars` of one).

  What was written before there was an LSTM has no kind: it is a GPT; before
  there was a kernel, no attention.
  """
  recorded = {'kind': 'gpt', **recorded}
  if recorded['kind'] == 'gpt':
    recorded = {'attention': 'auto', **recorded}
  return config_class(recorded)(**recorded)


def new(config: Config) -> Model:
  """The network of a configuration."""
  return gpt.GPT(config) if config.kind == 'gpt' else lstm.LSTM(config)


def num_parameters(config: Config) -> int:
  """Parameters of the model."""
  return _MODULES[config.kind].num_parameters(config)


def flops_per_token(config: Config) -> float:
  """Model FLOPs a token of an update: forward and backward."""
  return _MODULES[config.kind].flops_per_token(config)
