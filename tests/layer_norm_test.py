"""LayerNorm computes what flax's does, on a CPU to the last bit."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import linen as nn

from gpt1_jax.model import layer_norm
from gpt1_jax.model.layer_norm import LayerNorm


@pytest.mark.parametrize(
  ('dtype', 'platform', 'bound'),
  [
    ('float32', 'cpu', 0),
    ('bfloat16', 'cpu', 0),
    ('float32', 'tpu', 1e-6),  # leaves out a zero, which rounding blurs
    ('bfloat16', 'tpu', 1e-2),  # a unit in the last place
  ],
)
def test_equals_that_of_flax(dtype, platform, bound, monkeypatch):
  monkeypatch.setattr(layer_norm, 'platform', lambda: platform)
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

  def equal(found, expected):
    found, expected = (x.astype(jnp.float32) for x in (found, expected))
    np.testing.assert_allclose(found, expected, rtol=bound, atol=bound)

  jax.tree.map(equal, run(LayerNorm()), run(reference))
  created = nn.unbox(LayerNorm().init(keys[0], x_BTD))
  assert jax.tree.map(jnp.shape, created) == {
    'params': {'scale': (96,), 'bias': (96,)}
  }
