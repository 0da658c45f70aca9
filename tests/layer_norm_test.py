"""LayerNorm computes the same bits as flax's."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import linen as nn

from gpt1_jax.model.layer_norm import LayerNorm


@pytest.mark.parametrize('dtype', ['float32', 'bfloat16'])
def test_equals_that_of_flax(dtype):
  keys = jax.random.split(jax.random.key(0), 3)
  x_BTD = 3 + jax.random.normal(keys[0], (2, 5, 96), dtype)
  params = {
    'scale': jax.random.normal(keys[1], (96,)),
    'bias': jax.random.normal(keys[2], (96,)),
  }
  reference = nn.LayerNorm(
    epsilon=1e-5, use_fast_variance=False, dtype=jnp.float32
  )

  def run(module):
    def total(params, x_BTD):
      out_BTD = module.apply({'params': params}, x_BTD)
      out_BTD = out_BTD.astype(dtype)
      return jnp.sum(jnp.sin(out_BTD)), out_BTD

    return jax.jit(jax.grad(total, argnums=(0, 1), has_aux=True))(params, x_BTD)

  jax.tree.map(np.testing.assert_array_equal, run(LayerNorm()), run(reference))
  created = nn.unbox(LayerNorm().init(keys[0], x_BTD))
  assert jax.tree.map(jnp.shape, created) == {
    'params': {'scale': (96,), 'bias': (96,)}
  }
