"""Products equal plain ones in float32, in both types and directions."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from gpt1_jax.model import linear

SIZES = dict(zip('BTSHKDF', (2, 5, 7, 3, 4, 12, 6), strict=True))
SPECS = (
  'BTD,DF->BTF',
  'BTD,SD->BTS',
  'BTHK,BSHK->BHTS',  # attention: scores,
  'BHTS,BSHK->BTHK',  # attention: weighted values
  'BTHK,HKD->BTD',
  'BTD,DSHK->BTSHK',  # two axes that merge, and one that does not
)


@pytest.mark.parametrize('dtype', ['float32', 'bfloat16'])
@pytest.mark.parametrize('spec', SPECS)
def test_products_and_their_gradients(spec, dtype):
  """Rounds operands once and sums in float32."""
  inputs, out = spec.split('->')
  keys = jax.random.split(jax.random.key(0), 3)
  x, y, g = (
    jax.random.normal(key, [SIZES[letter] for letter in part], dtype)
    for key, part in zip(keys, (*inputs.split(','), out), strict=True)
  )

  @jax.jit
  def ours(x, y, g):
    z, back = jax.vjp(lambda x, y: linear.einsum(spec, x, y), x, y)
    return z, *back(g.astype(jnp.float32))

  z, dx, dy = ours(x, y, g)
  assert z.dtype == jnp.float32
  assert dx.dtype == dy.dtype == jnp.dtype(dtype)
  a, b, c = (np.asarray(v, np.float64) for v in (x, y, g))
  x_spec, y_spec = inputs.split(',')
  np.testing.assert_allclose(z, np.einsum(spec, a, b), rtol=0, atol=1e-5)
  # The gradients are rounded to the operands' type at the end.
  rounding = 2**-8 if dtype == 'bfloat16' else 1e-6
  for got, product in (
    (dx, np.einsum(f'{out},{y_spec}->{x_spec}', c, b)),
    (dy, np.einsum(f'{out},{x_spec}->{y_spec}', c, a)),
  ):
    got = np.asarray(got, np.float64)
    np.testing.assert_allclose(got, product, rtol=rounding, atol=1e-5)


def test_batched_products_are_taken_in_their_type():
  """Expects bfloat16 operands: float32 would take three times as long."""
  q = jnp.ones((1, 8, 2, 4), jnp.bfloat16)
  step = jax.jit(jax.grad(lambda q: linear.einsum(SPECS[2], q, q).sum()))
  text = step.lower(q).as_text()
  products = [line for line in text.splitlines() if 'dot_general' in line]
  assert len(products) >= 2
  for line in products:
    operands = line.split(' : ')[-1].split('->')[0]
    assert operands.count('bf16') == 2
