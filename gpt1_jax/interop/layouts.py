"""Parameters between our tree and the names of other programs, pure numpy.

OpenAI's files hold bare arrays in an order, Hugging Face's the same arrays by
name: layer by layer, queries, keys and values side by side in one matrix. Ours
stacks the layers on a leading axis and gives heads an axis of their own. No
number changes on the way, and each way undoes the other.
"""

from typing import Any

import numpy as np

# A block's arrays, in the order of the released files (REFERENCE §3).
_BLOCK = {
  'attn.c_attn.weight': ('attn', 'c_attn', 'kernel'),
  'attn.c_attn.bias': ('attn', 'c_attn', 'bias'),
  'attn.c_proj.weight': ('attn', 'c_proj', 'kernel'),
  'attn.c_proj.bias': ('attn', 'c_proj', 'bias'),
  'ln_1.weight': ('ln_1', 'scale'),
  'ln_1.bias': ('ln_1', 'bias'),
  'mlp.c_fc.weight': ('mlp', 'c_fc', 'kernel'),
  'mlp.c_fc.bias': ('mlp', 'c_fc', 'bias'),
  'mlp.c_proj.weight': ('mlp', 'c_proj', 'kernel'),
  'mlp.c_proj.bias': ('mlp', 'c_proj', 'bias'),
  'ln_2.weight': ('ln_2', 'scale'),
  'ln_2.bias': ('ln_2', 'bias'),
}
POSITIONS, TOKENS = 'positions_embed.weight', 'tokens_embed.weight'
ARRAYS_A_BLOCK = len(_BLOCK)


def shapes(
  *, n_layer: int, n_embd: int, n_ctx: int, rows: int
) -> dict[str, tuple[int, ...]]:
  """Name → shape of every array, in the order of the released files.

  Args:
    n_layer, n_embd, n_ctx: of the model.
    rows: of the token embedding, specials included.
  """
  D, F = n_embd, 4 * n_embd
  out: dict[str, tuple[int, ...]] = {POSITIONS: (n_ctx, D), TOKENS: (rows, D)}
  wide = {
    'attn.c_attn.weight': (D, 3 * D),
    'attn.c_attn.bias': (3 * D,),
    'attn.c_proj.weight': (D, D),
    'mlp.c_fc.weight': (D, F),
    'mlp.c_fc.bias': (F,),
    'mlp.c_proj.weight': (F, D),
  }
  for layer in range(n_layer):
    for name in _BLOCK:
      out[f'h.{layer}.{name}'] = wide.get(name, (D,))
  return out


def from_named(named: dict[str, np.ndarray], *, n_head: int) -> dict[str, Any]:
  """Arrays by name, as `shapes` has them → the tree of `gpt.GPT`.

  Args:
    named: float32.
    n_head: heads, which no shape tells.
  """
  n_layer = (len(named) - 2) // len(_BLOCK)
  D = named[TOKENS].shape[1]
  H, K = n_head, D // n_head
  headed = {
    'attn.c_attn.weight': (D, 3, H, K),
    'attn.c_attn.bias': (3, H, K),
    'attn.c_proj.weight': (H, K, D),
  }
  tree: dict[str, Any] = {
    'tokens_embed': named[TOKENS],
    'positions_embed': named[POSITIONS],
    'h': {},
  }
  for name, path in _BLOCK.items():
    stacked = np.stack([named[f'h.{i}.{name}'] for i in range(n_layer)])
    if name in headed:
      stacked = stacked.reshape(n_layer, *headed[name])
    place = tree['h']
    for key in path[:-1]:
      place = place.setdefault(key, {})
    place[path[-1]] = stacked
  return tree


def to_named(tree: dict[str, Any]) -> dict[str, np.ndarray]:
  """The inverse of `from_named`: names in the order of the released files."""
  out = {POSITIONS: tree['positions_embed'], TOKENS: tree['tokens_embed']}
  D = tree['tokens_embed'].shape[1]
  stacked = {}
  for name, path in _BLOCK.items():
    leaf = tree['h']
    for key in path:
      leaf = leaf[key]
    L = len(leaf)
    flat = {'attn.c_attn.weight': (L, D, -1), 'attn.c_attn.bias': (L, -1)}
    flat['attn.c_proj.weight'] = (L, -1, D)
    stacked[name] = leaf.reshape(flat.get(name, leaf.shape))
  for layer in range(L):
    for name in _BLOCK:
      out[f'h.{layer}.{name}'] = stacked[name][layer]
  return {name: np.asarray(array) for name, array in out.items()}


def not_finite(named: dict[str, np.ndarray]) -> str | None:
  """The name of an array with a NaN or an infinity, None if there is none."""
  for name, array in named.items():
    if not np.isfinite(array).all():
      return name
  return None
