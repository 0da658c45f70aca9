"""Measures parameters and gradients by layer, for TensorBoard."""

from typing import Any

import jax
import jax.numpy as jnp
import optax

Norms = dict[str, jax.Array]


def by_layer(tree: Any) -> Norms:
  """Returns the L2 norm of each part of the parameters or gradients.

  Stacked blocks have one norm each, float32 [n_layer], under 'layer'; every
  other part, such as 'tokens_embed' or 'head', has a scalar.
  """
  parts = dict(tree)
  parts |= parts.pop('gpt', {})
  out = {}
  if 'h' in parts:  # the blocks of a GPT
    squares_L = [
      jnp.square(x.astype(jnp.float32)).sum(axis=range(1, x.ndim))
      for x in jax.tree.leaves(parts.pop('h'))
    ]
    out['layer'] = jnp.sqrt(sum(squares_L))
  return out | {name: optax.tree.norm(part) for name, part in parts.items()}


def named(norms: Norms, prefix: str) -> dict[str, float]:
  """Returns the norms as floats: 'PREFIX/layer_03', 'PREFIX/tokens_embed'."""
  out: dict[str, float] = {}
  for name, value in jax.device_get(norms).items():
    if value.ndim:
      out |= {f'{prefix}/{name}_{i:02d}': float(x) for i, x in enumerate(value)}
    else:
      out[f'{prefix}/{name}'] = float(value)
  return out
