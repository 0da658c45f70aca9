"""Reads OpenAI's released weights: params_N.npy and params_shapes.json.

The arrays are flattened, concatenated and split into files of equal size. Every
file is validated before use and read without unpickling, so that no code in it
is executed.
"""

import math
import pathlib
import re

import numpy as np

from gpt1_jax import storage
from gpt1_jax.errors import UserError
from gpt1_jax.interop import layouts

SHAPES, PART = 'params_shapes.json', 'params_{}.npy'
_HEAD_WIDTH = 64  # P §4.1
# Settings that the files do not record. They follow the released code (C:
# train.py), as in configs/pretrain.py:openai.
RELEASED = {
  'kind': 'gpt',
  'embd_pdrop': 0.1,
  'attn_pdrop': 0.1,
  'resid_pdrop': 0.1,
  'embedding_dropout': 'matrix',
  'softmax_rows': 'all',
  'dtype': 'float32',
  'attention': 'auto',
  'remat': 'auto',
  'unroll': 1,
}


def read(directory: pathlib.Path, n_head: int | None) -> layouts.Weights:
  """Reads the released files in a folder.

  Args:
    n_head: number of heads; None means n_embd / 64 (P §4.1).

  Raises:
    UserError: a file is missing, damaged, or inconsistent with the others, or
      the number of heads is unknown.
  """
  shapes = _read_shapes(directory / SHAPES)
  parts = _read_parts(directory)
  ends = np.cumsum([math.prod(shape) for shape in shapes.values()])
  _check_sizes(directory, [part.size for part in parts], int(ends[-1]))
  arrays = np.split(np.concatenate(parts), ends[:-1])
  named = {
    name: array.reshape(shape)
    for (name, shape), array in zip(shapes.items(), arrays, strict=True)
  }
  layouts.check_finite(named, directory)
  n_embd = named[layouts.TOKENS].shape[1]
  if n_head is None and n_embd % _HEAD_WIDTH:
    raise UserError(
      f'{directory}: cannot infer the number of heads from width {n_embd}; '
      'give --n_head'
    )
  settings = {**RELEASED, 'n_head': n_head or n_embd // _HEAD_WIDTH}
  return layouts.Weights(named, settings)


def _read_shapes(file: pathlib.Path) -> dict[str, tuple[int, ...]]:
  """Reads and validates the shapes by name."""
  if not file.is_file():
    raise UserError(f'{file}: missing')
  stored = storage.read_json(file)
  if not isinstance(stored, list) or not all(
    isinstance(shape, list) and shape and all(type(n) is int for n in shape)
    for shape in stored
  ):
    raise UserError(f'{file}: not a list of shapes')
  n_layer, rest = divmod(len(stored) - 2, layouts.ARRAYS_PER_BLOCK)
  if n_layer < 1 or rest:
    raise UserError(
      f'{file}: {len(stored)} arrays, expected 2 and '
      f'{layouts.ARRAYS_PER_BLOCK} per layer (146 in the released model)'
    )
  for name, shape in zip(('positions', 'tokens'), stored[:2], strict=True):
    if len(shape) != 2 or min(shape) < 1:
      raise UserError(
        f'{file}: the embedding of {name} is {shape}, expected [rows, n_embd]'
      )
  (n_ctx, _), (rows, n_embd) = stored[:2]
  shapes = layouts.shapes(
    n_layer=n_layer, n_embd=n_embd, n_ctx=n_ctx, rows=rows
  )
  for i, (name, expected) in enumerate(shapes.items()):
    # Weights may have the leading axis of a width-1 convolution.
    leading = [1] if len(expected) == 2 and i >= 2 else []
    if stored[i] not in ([*leading, *expected], list(expected)):
      raise UserError(
        f'{file}: array {i}, {name}, is {stored[i]}, expected '
        f'{[*leading, *expected]}'
      )
  return shapes


def _read_parts(directory: pathlib.Path) -> list[np.ndarray]:
  """Opens the flat arrays in numerical order."""
  pattern = re.compile(r'params_(\d+)\.npy')
  found = [pattern.fullmatch(file.name) for file in directory.iterdir()]
  numbers = {int(match[1]) for match in found if match}
  last, parts = max(numbers, default=0), []
  for i in range(last + 1):
    file = directory / PART.format(i)
    if i not in numbers:
      raise UserError(
        f'{file}: missing; there are {len(numbers)} files {PART.format("N")}, '
        f'up to {PART.format(last)}'
      )
    try:  # memory-mapped: a wrong size in the header costs no memory
      part = np.load(file, mmap_mode='r', allow_pickle=False)
    except OSError:
      raise
    except Exception as error:  # whatever the parser of the header raises
      raise UserError(
        f'{file}: not an array of numbers, or truncated ({error}); expected '
        'flat float32'
      ) from None
    if not isinstance(part, np.ndarray) or part.ndim != 1:
      shape = list(part.shape) if isinstance(part, np.ndarray) else 'an archive'
      raise UserError(f'{file}: {shape}, expected a flat array')
    if part.dtype != np.float32:
      raise UserError(f'{file}: {part.dtype}, expected float32')
    parts.append(part)
  return parts


def _check_sizes(directory: pathlib.Path, sizes: list[int], total: int) -> None:
  """Checks that the files hold `total` values; names files of unusual size."""
  if sum(sizes) == total:
    return
  usual = sorted(sizes)[len(sizes) // 2]
  odd = [
    f'; {PART.format(i)} has {size:,}, the others about {usual:,}'
    for i, size in enumerate(sizes[:-1])
    if abs(size - usual) > 1
  ]
  raise UserError(
    f'{directory}: the {len(sizes)} files {PART.format("N")} hold '
    f'{sum(sizes):,} values, but {SHAPES} expects {total:,}{"".join(odd)}; is '
    f'a file missing after {PART.format(len(sizes) - 1)}, or does one belong '
    'to another model?'
  )
