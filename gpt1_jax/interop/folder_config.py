"""Reads config.json of a Hugging Face openai-gpt folder."""

import pathlib
import reprlib
from typing import Literal

import pydantic

from gpt1_jax import storage
from gpt1_jax.errors import UserError


class _Ours(pydantic.BaseModel, strict=True):
  """The section of config.json that we add; empty in other programs' files."""

  model: dict[str, object] = {}
  step: int = 0


class FolderConfig(pydantic.BaseModel, strict=True):
  """Describes config.json of a model that computes the same as GPT-1.

  Other programs' files may omit keys; the library's defaults then apply, and
  the dropout rates of the released code.
  """

  model_type: Literal['openai-gpt']
  n_layer: pydantic.PositiveInt
  n_head: pydantic.PositiveInt
  n_embd: pydantic.PositiveInt
  n_positions: pydantic.PositiveInt = pydantic.Field(
    validation_alias=pydantic.AliasChoices('n_positions', 'n_ctx')  # or older
  )
  vocab_size: pydantic.PositiveInt
  afn: Literal['gelu', 'gelu_new'] = 'gelu'  # both mean the tanh approximation
  layer_norm_epsilon: float = 1e-5
  embd_pdrop: float = 0.1
  attn_pdrop: float = 0.1
  resid_pdrop: float = 0.1
  gpt1_jax: _Ours = _Ours()

  @pydantic.field_validator('layer_norm_epsilon')
  @classmethod
  def _is_gpt1_s(cls, value: float) -> float:
    if value != 1e-5:
      raise ValueError('expected 1e-05 as in GPT-1')
    return value


def read(file: pathlib.Path) -> FolderConfig:
  """Reads config.json.

  Raises:
    UserError: it is missing, damaged, or describes another model.
  """
  if not file.is_file():
    raise UserError(f'{file}: missing')
  try:
    return FolderConfig.model_validate(storage.read_json(file))
  except pydantic.ValidationError as error:
    first = error.errors(include_url=False)[0]
  place = '.'.join(map(str, first['loc'])) or 'the content'
  if first['type'] == 'missing':
    raise UserError(f'{file}: {place} is missing')
  message = f'{file}: {place} is {reprlib.repr(first["input"])}'
  reason = first['msg'].removeprefix('Value error, ')
  raise UserError(f'{message}: {reason[0].lower()}{reason[1:]}')
