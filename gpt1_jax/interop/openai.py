"""OpenAI's released weights: params_N.npy and params_shapes.json.

The arrays laid flat, end to end, and cut into files of even size. Every file
is checked against what is expected before its numbers are taken, and read
without pickles, so that none is executed.
"""

import math
import pathlib
import re

import numpy as np

from gpt1_jax import storage
from gpt1_jax.errors import UserError
from gpt1_jax.interop import layouts

SHAPES, PART = 'params_shapes.json', 'params_{}.npy'


def read(directory: pathlib.Path) -> dict[str, np.ndarray]:
  """params_0.npy, params_1.npy, ... and params_shapes.json → arrays by name.

  Returns:
    float32, names and shapes as in `layouts.shapes`.

  Raises:
    UserError: a file is missing, damaged, or not what is expected.
  """
  expected, stored = _read_shapes(directory / SHAPES)
  parts = _read_parts(directory)
  sizes = [part.size for part in parts]
  total = sum(map(math.prod, stored))
  if sum(sizes) != total:
    raise UserError(
      f'{directory}: {_range(len(parts))} hold {sum(sizes):,} values, '
      f'{total:,} expected by {SHAPES}; {_suspect(sizes, total)}'
    )
  flat = np.concatenate(parts)
  out, start = {}, 0
  for name, shape in expected.items():
    out[name] = flat[start : start + math.prod(shape)].reshape(shape)
    start += math.prod(shape)
  bad = layouts.not_finite(out)
  if bad:
    raise UserError(f'{directory}: {bad} holds numbers that are not finite')
  return out


def _read_shapes(
  file: pathlib.Path,
) -> tuple[dict[str, tuple[int, ...]], list[list[int]]]:
  """Name → shape, and the shapes as the file has them."""
  if not file.is_file():
    raise UserError(f'{file}: missing')
  stored = storage.read_json(file)
  if not isinstance(stored, list) or not all(
    isinstance(shape, list)
    and shape
    and all(type(n) is int and n > 0 for n in shape)
    for shape in stored
  ):
    raise UserError(f'{file}: not a list of shapes')
  layers, rest = divmod(len(stored) - 2, layouts.ARRAYS_A_BLOCK)
  if layers < 1 or rest:
    raise UserError(
      f'{file}: {len(stored)} arrays, 2 and {layouts.ARRAYS_A_BLOCK} a layer '
      'expected (146 in the released model)'
    )
  for name, shape in zip(('positions', 'tokens'), stored[:2], strict=True):
    if len(shape) != 2:
      raise UserError(
        f'{file}: the embedding of {name} is {shape}, [rows, n_embd] expected'
      )
  expected = layouts.shapes(
    n_layer=layers,
    n_embd=stored[1][1],
    n_ctx=stored[0][0],
    rows=stored[1][0],
  )
  for number, (name, shape) in enumerate(expected.items()):
    # Weights carry the leading axis of a convolution of width 1, or do not.
    allowed = [list(shape)]
    if len(shape) == 2 and number >= 2:
      allowed.insert(0, [1, *shape])
    if stored[number] not in allowed:
      raise UserError(
        f'{file}: array {number}, {name}, is {stored[number]}, {allowed[0]} '
        'expected'
      )
  return expected, stored


def _read_parts(directory: pathlib.Path) -> list[np.ndarray]:
  """The flat arrays in the order of their numbers."""
  names = (
    re.fullmatch(r'params_(\d+)\.npy', p.name) for p in directory.iterdir()
  )
  numbers = sorted(int(name[1]) for name in names if name)
  if not numbers:
    raise UserError(f'{directory / PART.format(0)}: missing')
  for i, number in enumerate(numbers):
    if i != number:
      raise UserError(
        f'{directory / PART.format(i)}: missing; there are {len(numbers)} '
        f'params_N.npy, up to {PART.format(numbers[-1])}'
      )
  parts = []
  for i in numbers:
    file = directory / PART.format(i)
    try:
      part = np.load(file, allow_pickle=False)
    except (ValueError, EOFError) as error:
      raise UserError(
        f'{file}: not an array of numbers, or cut short ({error}); flat '
        f'float32 expected'
      ) from None
    if not isinstance(part, np.ndarray) or part.ndim != 1:
      shape = list(part.shape) if isinstance(part, np.ndarray) else 'an archive'
      raise UserError(f'{file}: {shape}, a flat array expected')
    if part.dtype != np.float32:
      raise UserError(f'{file}: {part.dtype}, float32 expected')
    parts.append(part)
  return parts


def _range(count: int) -> str:
  if count == 1:
    return PART.format(0)
  return f'{PART.format(0)} to {PART.format(count - 1)}'


def _suspect(sizes: list[int], total: int) -> str:
  """Which file is likely at fault; the released ones are of even size."""
  usual = sorted(sizes)[len(sizes) // 2]
  odd = [i for i, size in enumerate(sizes[:-1]) if abs(size - usual) > 1]
  if odd:
    return (
      f'{PART.format(odd[0])} has {sizes[odd[0]]:,}, the others about {usual:,}'
    )
  if sum(sizes) < total:
    return f'is {PART.format(len(sizes))} missing?'
  return f'is {PART.format(len(sizes) - 1)} of another model?'
