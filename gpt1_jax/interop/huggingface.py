"""Reads and writes Hugging Face openai-gpt folders.

Weights may be one file or several with an index, in float32, float16 or
bfloat16. Every file is validated before use, and no code in it is executed:
safetensors are preferred, and pytorch_model.bin is loaded with PyTorch's
weights_only.
"""

import pathlib
import re
from collections.abc import Mapping
from typing import Any

import numpy as np

from gpt1_jax import storage
from gpt1_jax.errors import UserError, first_line
from gpt1_jax.interop import folder_config, layouts, openai
from gpt1_jax.settings import GPTConfig
from gpt1_jax.train import checkpoint

CONFIG = 'config.json'
SAFETENSORS, BIN = 'model.safetensors', 'pytorch_model.bin'
HEAD = 'head.safetensors'
OURS = 'gpt1_jax'  # key of config.json for our own metadata
_DROPOUT_RATES = ('embd_pdrop', 'attn_pdrop', 'resid_pdrop')
# Types that float32 represents exactly, as safetensors and PyTorch name them.
_FLOATS = ('F32', 'F16', 'BF16', 'float32', 'float16', 'bfloat16')
# Masks and positions, which older versions saved with the weights.
_CONSTANT = re.compile(r'(.*\.)?(h\.\d+\.attn\.bias|position_ids)')
# Tensors of other model classes in the library.
_OTHER_HEADS = ('multiple_choice_head.', 'score.')


def read(directory: pathlib.Path) -> layouts.Weights:
  """Reads an openai-gpt folder; half precision is widened to float32.

  Raises:
    UserError: a file is missing, damaged, or inconsistent with config.json.
  """
  config = folder_config.read(directory / CONFIG)
  file, tensors = _read_tensors(directory)
  named = {k.removeprefix('transformer.'): v for k, v in tensors.items()}
  tied = named.pop('lm_head.weight', None)
  skipped = tuple(sorted(k for k in named if k.startswith(_OTHER_HEADS)))
  named = {k: v for k, v in named.items() if k not in skipped}
  shapes = layouts.shapes(
    n_layer=min(config.n_layer, len(named)),  # stops at a wrong layer count
    n_embd=config.n_embd,
    n_ctx=config.n_positions,
    rows=config.vocab_size,
  )
  _check(named, shapes, file)
  if tied is not None and not np.array_equal(tied, named[layouts.TOKENS]):
    raise UserError(
      f'{file}: lm_head.weight differs from the token embedding; GPT-1 uses '
      'one matrix for both'
    )
  ours = config.gpt1_jax
  settings = {**openai.RELEASED, **ours.model}
  settings |= config.model_dump(include={*_DROPOUT_RATES}, exclude_unset=True)
  return layouts.Weights(
    {name: named[name] for name in shapes},
    {**settings, 'n_head': config.n_head},
    _read_head(directory / HEAD),
    ours.step,
    skipped,
  )


def write(
  directory: storage.Path, found: checkpoint.Checkpoint, command: str
) -> None:
  """Writes model.safetensors, the head if fine-tuned, and then config.json."""
  save = _safetensors().numpy.save
  tensors = {
    f'transformer.{name}': np.ascontiguousarray(array)
    for name, array in layouts.to_named(found.params['gpt']).items()
  }
  storage.write_bytes(directory / SAFETENSORS, save(tensors, {'format': 'pt'}))
  if head := found.params.get('head'):
    flat = {f'clf.{name}': array for name, array in head['clf'].items()}
    storage.write_bytes(directory / HEAD, save(flat))
  storage.write_json(directory / CONFIG, _config(found, command))


def _config(found: checkpoint.Checkpoint, command: str) -> dict[str, object]:
  """Returns config.json, including our metadata for converting back."""
  model = found.meta.model
  assert isinstance(model, GPTConfig)
  return {
    'architectures': ['OpenAIGPTLMHeadModel'],
    'model_type': 'openai-gpt',
    'vocab_size': model.token_rows,
    'n_positions': model.n_ctx,
    'n_embd': model.n_embd,
    'n_layer': model.n_layer,
    'n_head': model.n_head,
    'afn': 'gelu',
    **{name: getattr(model, name) for name in _DROPOUT_RATES},
    'layer_norm_epsilon': 1e-5,
    'initializer_range': 0.02,
    'torch_dtype': 'float32',
    OURS: {**found.meta.as_json(), 'command': command, 'step': found.step},
  }


def _read_tensors(
  directory: pathlib.Path,
) -> tuple[pathlib.Path, layouts.Named]:
  """Reads one file of weights, or the files that an index lists.

  Returns:
    The file or index, for messages, and the tensors by name.
  """
  for name, reader in ((SAFETENSORS, _read_safetensors), (BIN, _read_bin)):
    file, index = directory / name, directory / f'{name}.index.json'
    if file.is_file():
      return file, reader(file)
    if index.is_file():
      tensors: layouts.Named = {}
      for part in _read_index(index):
        tensors |= reader(part)
      return index, tensors
  raise UserError(
    f'{directory}: no weights here (expected {SAFETENSORS} or {BIN}, or an '
    'index of several such files)'
  )


def _read_index(index: pathlib.Path) -> list[pathlib.Path]:
  """Returns the files of an index, which lie beside it."""
  stored = storage.read_json(index)
  names = stored.get('weight_map') if isinstance(stored, dict) else None
  names = list(names.values()) if isinstance(names, dict) else []
  if not names or not all(
    isinstance(name, str) and pathlib.PurePath(name).name == name
    for name in names
  ):
    raise UserError(f'{index}: weight_map does not map tensors to file names')
  files = [index.with_name(name) for name in dict.fromkeys(names)]
  for file in files:
    if not file.is_file():
      raise UserError(f'{file}: missing, but {index.name} lists it')
  return files


def _read_head(file: pathlib.Path) -> dict[str, dict[str, np.ndarray]] | None:
  """Reads the task head that `write` saved beside the model, if any."""
  if not file.is_file():
    return None
  found = _read_safetensors(file)
  if found.keys() != {'clf.kernel', 'clf.bias'}:
    raise UserError(
      f'{file}: holds {", ".join(sorted(found)) or "nothing"}, expected '
      'clf.kernel and clf.bias'
    )
  return {'clf': {'kernel': found['clf.kernel'], 'bias': found['clf.bias']}}


def _safetensors() -> Any:
  try:
    import safetensors.numpy
  except ImportError:
    raise UserError(
      'Hugging Face folders need safetensors, which is not installed: '
      "pip install 'gpt1_jax[openai]'"
    ) from None
  return safetensors


def _read_safetensors(file: pathlib.Path) -> layouts.Named:
  library = _safetensors()
  out = {}
  try:
    with library.safe_open(file, framework='numpy') as opened:
      for name in opened.keys():  # noqa: SIM118, not a mapping
        if not _CONSTANT.fullmatch(name):
          _check_type(file, name, opened.get_slice(name).get_dtype())
          out[name] = opened.get_tensor(name).astype(np.float32, copy=False)
  except library.SafetensorError as error:
    raise UserError(f'{file}: damaged ({error})') from None
  return out


def _read_bin(file: pathlib.Path) -> layouts.Named:
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
      f'{file}: damaged, or contains code, which is not executed '
      f'({first_line(error)})'
    ) from None
  if not isinstance(found, dict):
    raise UserError(
      f'{file}: holds a {type(found).__name__}, expected tensors by name'
    )
  out = {}
  for name, tensor in found.items():
    if not _CONSTANT.fullmatch(name):
      kind = getattr(tensor, 'dtype', type(tensor).__name__)
      _check_type(file, name, str(kind).removeprefix('torch.'))
      out[name] = tensor.float().numpy()
  return out


def _check_type(file: pathlib.Path, name: str, kind: str) -> None:
  if kind not in _FLOATS:
    raise UserError(
      f'{file}: {name} is {kind}, expected float32, float16 or bfloat16'
    )


def _check(
  named: layouts.Named,
  shapes: Mapping[str, tuple[int, ...]],
  file: pathlib.Path,
) -> None:
  """Checks names and shapes against config.json."""
  if named.keys() != shapes.keys():
    message = (
      f'{file}: {len(named)} tensors, but {CONFIG} expects {len(shapes)}'
    )
    for label, names in (
      ('missing', [name for name in shapes if name not in named]),
      ('unknown', [name for name in named if name not in shapes]),
    ):
      if names:
        more = ', ...' if len(names) > 3 else ''
        message += f'; {label}: {", ".join(names[:3])}{more}'
    raise UserError(message)
  for name, shape in shapes.items():
    if named[name].shape != shape:
      raise UserError(
        f'{file}: {name} is {list(named[name].shape)}, but {CONFIG} expects '
        f'{list(shape)}'
      )
  layouts.check_finite(named, file)
