"""Converts parameters between our tree and the released layout.

OpenAI's files hold unnamed arrays in a fixed order; Hugging Face's hold the
same arrays by name. Both store each layer separately, with queries, keys and
values concatenated in one matrix. Our tree stacks the layers along a leading
axis and has a separate axis for heads. Values are copied unchanged.
"""

import dataclasses
import pathlib
from typing import Any, TypeAlias

import numpy as np
from flax import traverse_util

from gpt1_jax.config import Values
from gpt1_jax.errors import UserError

Named: TypeAlias = dict[str, np.ndarray]

# A block's arrays in the order of the released files (docs/reference.md §3):
# their name, our path, their shape, our shape.
_BLOCK = (
  ('attn.c_attn.weight', 'attn/c_attn/kernel', 'D 3D', 'D 3 H K'),
  ('attn.c_attn.bias', 'attn/c_attn/bias', '3D', '3 H K'),
  ('attn.c_proj.weight', 'attn/c_proj/kernel', 'D D', 'H K D'),
  ('attn.c_proj.bias', 'attn/c_proj/bias', 'D', 'D'),
  ('ln_1.weight', 'ln_1/scale', 'D', 'D'),
  ('ln_1.bias', 'ln_1/bias', 'D', 'D'),
  ('mlp.c_fc.weight', 'mlp/c_fc/kernel', 'D 4D', 'D 4D'),
  ('mlp.c_fc.bias', 'mlp/c_fc/bias', '4D', '4D'),
  ('mlp.c_proj.weight', 'mlp/c_proj/kernel', '4D D', '4D D'),
  ('mlp.c_proj.bias', 'mlp/c_proj/bias', 'D', 'D'),
  ('ln_2.weight', 'ln_2/scale', 'D', 'D'),
  ('ln_2.bias', 'ln_2/bias', 'D', 'D'),
)
POSITIONS, TOKENS = 'positions_embed.weight', 'tokens_embed.weight'
ARRAYS_PER_BLOCK = len(_BLOCK)


@dataclasses.dataclass(frozen=True)
class Weights:
  """A model read from another program's files.

  Attributes:
    named: float32 arrays, with names and shapes as in `shapes`.
    settings: fields of `GPTConfig` that the files specify.
    step: number of updates applied; 0 if unknown.
    skipped: names of tensors that are not part of the model.
  """

  named: Named
  settings: Values
  head: dict[str, dict[str, np.ndarray]] | None = None
  step: int = 0
  skipped: tuple[str, ...] = ()


def shapes(
  *, n_layer: int, n_embd: int, n_ctx: int, rows: int
) -> dict[str, tuple[int, ...]]:
  """Returns the shape of every array by name, in the released files' order."""
  out: dict[str, tuple[int, ...]]
  out = {POSITIONS: (n_ctx, n_embd), TOKENS: (rows, n_embd)}
  for layer in range(n_layer):
    for name, _, shape, _ in _BLOCK:
      out[f'h.{layer}.{name}'] = _sizes(shape, n_embd, 1)
  return out


def from_named(named: Named, *, n_head: int) -> dict[str, Any]:
  """Builds the parameter tree of `gpt.GPT` from named arrays.

  Args:
    n_head: number of heads, which the shapes do not reveal.
  """
  layers = range((len(named) - 2) // ARRAYS_PER_BLOCK)
  blocks = {}
  for name, path, _, shape in _BLOCK:
    stacked = np.stack([named[f'h.{layer}.{name}'] for layer in layers])
    sizes = _sizes(shape, named[TOKENS].shape[1], n_head)
    blocks[path] = stacked.reshape(len(layers), *sizes)
  return {
    'tokens_embed': named[TOKENS],
    'positions_embed': named[POSITIONS],
    'h': traverse_util.unflatten_dict(blocks, sep='/'),
  }


def to_named(tree: dict[str, Any]) -> Named:
  """Inverts `from_named`; keeps the order of the released files."""
  tokens_VD = np.asarray(tree['tokens_embed'])
  out = {POSITIONS: np.asarray(tree['positions_embed']), TOKENS: tokens_VD}
  blocks = traverse_util.flatten_dict(tree['h'], sep='/')
  for layer in range(len(blocks['ln_1/bias'])):
    for name, path, shape, _ in _BLOCK:
      sizes = _sizes(shape, tokens_VD.shape[1], 1)
      out[f'h.{layer}.{name}'] = np.asarray(blocks[path][layer]).reshape(sizes)
  return out


def check_finite(named: Named, source: pathlib.Path) -> None:
  """Raises UserError if an array holds NaN or infinity."""
  for name, array in named.items():
    if not np.isfinite(array).all():
      raise UserError(f'{source}: {name} contains NaN or infinity')


def _sizes(shape: str, n_embd: int, n_head: int) -> tuple[int, ...]:
  sizes = {'D': n_embd, '3': 3, '3D': 3 * n_embd, '4D': 4 * n_embd}
  sizes |= {'H': n_head, 'K': n_embd // n_head}
  return tuple(sizes[axis] for axis in shape.split())
