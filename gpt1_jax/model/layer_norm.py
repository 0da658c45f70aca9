"""Normalises hidden states; `jax.checkpoint` can keep the statistics."""

from typing import Any

import jax
import jax.numpy as jnp
from flax import linen as nn
from jax import ad_checkpoint

from gpt1_jax.model.placement import platform


class LayerNorm(nn.Module):
  """LayerNorm with eps 1e-5 and float32 statistics (C: train.py).

  Computes what flax's does. The statistics are named 'mean' and 'variance', so
  that the backward pass need not read the input twice to compute them again.
  """

  @nn.compact
  def __call__(self, x_BTD: jax.Array) -> jax.Array:
    x = x_BTD.astype(jnp.float32)
    mean_BT1 = x.mean(axis=-1)[..., None]
    mean_BT1 = ad_checkpoint.checkpoint_name(mean_BT1, 'mean')
    # Through this mean the variance has no gradient, but XLA reads the input to
    # compute the zero. On a CPU it stays: results do not change in any bit.
    centre_BT1 = mean_BT1
    if platform() != 'cpu':
      centre_BT1 = jax.lax.stop_gradient(mean_BT1)
    variance_BT1 = jnp.square(x - centre_BT1).mean(axis=-1)[..., None]
    variance_BT1 = ad_checkpoint.checkpoint_name(variance_BT1, 'variance')
    factor = jax.lax.rsqrt(variance_BT1 + 1e-5)
    factor *= self._parameter('scale', nn.initializers.ones, x.shape[-1])
    # The input itself, as in flax: its gradient is rounded once for each use.
    x = (x_BTD - mean_BT1) * factor
    x += self._parameter('bias', nn.initializers.zeros, x.shape[-1])
    return x.astype(x_BTD.dtype)

  def _parameter(
    self, name: str, init: nn.initializers.Initializer, size: int
  ) -> Any:
    init = nn.with_logical_partitioning(init, ('norm',))
    return self.param(name, init, (size,), jnp.float32)
