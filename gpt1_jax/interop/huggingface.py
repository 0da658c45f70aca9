"""Hugging Face folders of the openai-gpt kind, in and out.

Every file is checked against what is expected before its numbers are taken,
and none is executed: safetensors are preferred, pytorch_model.bin goes through
PyTorch's weights-only reader.
"""

import json
import pathlib
import re
from collections.abc import Iterable
from typing import Any

import numpy as np

from gpt1_jax import storage
from gpt1_jax.errors import UserError
from gpt1_jax.interop import layouts

CONFIG, SAFETENSORS, BIN = (
  'config.json',
  'model.safetensors',
  'pytorch_model.bin',
)
HEAD = 'head.safetensors'
# Masks and positions, which older versions kept among the weights.
_CONSTANT = re.compile(r'(.*\.)?(h\.\d+\.attn\.bias|position_ids)')
# Of other classes of the same library; they are no part of the model.
_OTHER_HEADS = ('multiple_choice_head.', 'score.')


def read(
  directory: pathlib.Path,
) -> tuple[dict[str, Any], dict[str, np.ndarray], list[str]]:
  """A folder of the openai-gpt kind → its config, arrays by name, leftovers.

  Returns:
    config.json, checked; float32 arrays, names and shapes as in
    `layouts.shapes`; names of task heads, which are not taken.

  Raises:
    UserError: a file is missing, damaged, or not what is expected.
  """
  config = _read_config(directory / CONFIG)
  if (directory / SAFETENSORS).is_file():
    file = directory / SAFETENSORS
    found = _read_safetensors(file)
  elif (directory / BIN).is_file():
    file = directory / BIN
    found = _read_bin(file)
  else:
    raise UserError(
      f'{directory}: no weights here ({SAFETENSORS} or {BIN} expected)'
    )
  found = {
    name.removeprefix('transformer.'): array for name, array in found.items()
  }
  tied = found.pop('lm_head.weight', None)
  left = sorted(name for name in found if name.startswith(_OTHER_HEADS))
  for name in left:
    del found[name]
  expected = layouts.shapes(
    n_layer=config['n_layer'],
    n_embd=config['n_embd'],
    n_ctx=config['n_positions'],
    rows=config['vocab_size'],
  )
  _check(found, expected, file)
  if tied is not None and not np.array_equal(tied, found[layouts.TOKENS]):
    raise UserError(
      f'{file}: lm_head.weight is not the token embedding; in GPT-1 they are '
      'one matrix'
    )
  return config, {name: found[name] for name in expected}, left


def read_head(directory: pathlib.Path) -> dict[str, Any] | None:
  """The task head that `write` left beside the model, or None."""
  if not (directory / HEAD).is_file():
    return None
  found = _read_safetensors(directory / HEAD)
  if found.keys() != {'clf.kernel', 'clf.bias'}:
    raise UserError(
      f'{directory / HEAD}: has {", ".join(sorted(found)) or "nothing"}, '
      'clf.kernel and clf.bias expected'
    )
  return {'clf': {'kernel': found['clf.kernel'], 'bias': found['clf.bias']}}


def write(
  directory: pathlib.Path,
  config: dict[str, Any],
  named: dict[str, np.ndarray],
  head: dict[str, Any] | None,
) -> None:
  """config.json, model.safetensors and, of a fine-tuned run, the head."""
  numpy_io = _safetensors().numpy
  (directory / CONFIG).write_text(
    json.dumps(config, indent=1) + '\n', encoding='utf-8'
  )
  tensors = {
    f'transformer.{name}': np.ascontiguousarray(array)
    for name, array in named.items()
  }
  numpy_io.save_file(tensors, directory / SAFETENSORS, {'format': 'pt'})
  if head:
    flat = {f'clf.{name}': array for name, array in head['clf'].items()}
    numpy_io.save_file(flat, directory / HEAD)


def _read_config(file: pathlib.Path) -> dict[str, Any]:
  if not file.is_file():
    raise UserError(f'{file}: missing')
  config = storage.read_json(file)
  kind = config.get('model_type') if isinstance(config, dict) else None
  if kind != 'openai-gpt':
    raise UserError(f"{file}: model_type {kind!r}, 'openai-gpt' expected")
  if 'n_positions' not in config and 'n_ctx' in config:
    config['n_positions'] = config['n_ctx']  # older versions
  for name in ('n_layer', 'n_head', 'n_embd', 'n_positions', 'vocab_size'):
    if type(config.get(name)) is not int or config[name] < 1:
      raise UserError(
        f'{file}: {name} is {config.get(name)!r}, a count expected'
      )
  for name, allowed in (
    ('afn', ('gelu', 'gelu_new')),  # both are the tanh form there
    ('layer_norm_epsilon', (1e-5,)),
  ):
    if config.get(name, allowed[0]) not in allowed:
      raise UserError(
        f'{file}: {name} is {config[name]!r}, {allowed[0]!r} expected: GPT-1 '
        'has no other'
      )
  return config


def _safetensors() -> Any:
  try:
    import safetensors.numpy
  except ImportError:
    raise UserError(
      'Hugging Face folders need safetensors, which is not installed: '
      "pip install 'gpt1_jax[openai]'"
    ) from None
  return safetensors


def _read_safetensors(file: pathlib.Path) -> dict[str, np.ndarray]:
  library = _safetensors()
  out = {}
  try:
    with library.safe_open(file, framework='numpy') as opened:
      for name in opened.keys():  # noqa: SIM118, it is no mapping
        if _CONSTANT.fullmatch(name):
          continue
        kind = opened.get_slice(name).get_dtype()
        if kind != 'F32':
          raise UserError(f'{file}: {name} is {kind}, float32 expected')
        out[name] = opened.get_tensor(name)
  except library.SafetensorError as error:
    raise UserError(f'{file}: damaged ({error})') from None
  return out


def _read_bin(file: pathlib.Path) -> dict[str, np.ndarray]:
  try:
    import torch
  except ImportError:
    raise UserError(
      f'{file}: reading it needs PyTorch, which is not installed: '
      "pip install 'gpt1_jax[peers]', or save the model as safetensors"
    ) from None
  try:
    found = torch.load(file, map_location='cpu', weights_only=True)
  except Exception as error:
    raise UserError(
      f'{file}: damaged, or more than weights, which is not executed '
      f'({str(error).splitlines()[0]})'
    ) from None
  if not isinstance(found, dict):
    raise UserError(f'{file}: {type(found).__name__}, tensors by name expected')
  out = {}
  for name, tensor in found.items():
    if _CONSTANT.fullmatch(name):
      continue
    kind = getattr(tensor, 'dtype', type(tensor).__name__)
    if kind != torch.float32:
      raise UserError(f'{file}: {name} is {kind}, float32 expected')
    out[name] = tensor.numpy()
  return out


def _check(
  found: dict[str, np.ndarray],
  expected: dict[str, tuple[int, ...]],
  file: pathlib.Path,
) -> None:
  missing, unknown = (
    [name for name in one if name not in other]
    for one, other in ((expected, found), (found, expected))
  )
  if missing or unknown:
    raise UserError(
      f'{file}: {len(found)} tensors, {len(expected)} expected by {CONFIG}'
      + _listed('; missing: ', missing)
      + _listed('; unknown: ', unknown)
    )
  for name, shape in expected.items():
    if found[name].shape != shape:
      raise UserError(
        f'{file}: {name} is {list(found[name].shape)}, {list(shape)} expected '
        f'by {CONFIG}'
      )
  bad = layouts.not_finite(found)
  if bad:
    raise UserError(f'{file}: {bad} holds numbers that are not finite')


def _listed(label: str, names: Iterable[str]) -> str:
  names = list(names)
  if not names:
    return ''
  more = f' and {len(names) - 3} more' if len(names) > 3 else ''
  return label + ', '.join(names[:3]) + more
