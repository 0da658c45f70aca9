"""Masks: the right rate, and independent wherever they should be."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from gpt1_jax.model import dropout

SEED = jnp.array([11, 12], jnp.uint32)
ROWS = jnp.arange(64, dtype=jnp.uint32)
SHAPE = (64, 32, 48)


def mask(seed=SEED, layer=0, site=dropout.ATTENTION, rows=ROWS, rate=0.5):
  ones = jnp.ones((len(rows), *SHAPE[1:]))
  site = dropout.site_id(layer, site)
  return np.asarray(dropout.dropout(ones, rate, seed, site, rows)) > 0


@pytest.mark.parametrize('rate', [0.1, 0.5, 0.9])
def test_rate_and_scale(rate):
  kept = mask(rate=rate)
  sigma = (rate * (1 - rate) / kept.size) ** 0.5
  assert abs(kept.mean() - (1 - rate)) < 4 * sigma
  ones = jnp.ones(SHAPE)
  out = dropout.dropout(ones, rate, SEED, jnp.uint32(0), ROWS)
  np.testing.assert_allclose(out.max(), 1 / (1 - rate), rtol=1e-6)


@pytest.mark.parametrize(
  'other',
  [
    {'seed': jnp.array([11, 13], jnp.uint32)},
    {'seed': jnp.array([10, 12], jnp.uint32)},
    {'layer': 1},
    {'site': dropout.RESIDUAL_MLP},
    {'rows': ROWS + 64},
  ],
)
def test_streams_are_independent(other):
  a, b = mask(), mask(**other)
  both = (a & b).mean()
  sigma = (0.25 * 0.75 / a.size) ** 0.5
  assert abs(both - 0.25) < 4 * sigma


def test_rows_and_neighbours_are_independent():
  kept = mask().reshape(64, -1)
  sigma = 0.5 / kept.shape[1] ** 0.5
  correlation = np.corrcoef(kept)[~np.eye(64, dtype=bool)]
  assert np.abs(correlation).max() < 5.5 * 2 * sigma
  flat = kept.reshape(-1).astype(float) - 0.5
  for lag in (1, 2, 48, 49, 1536):
    c = 4 * (flat[lag:] * flat[:-lag]).mean()
    assert abs(c) < 4.5 / len(flat) ** 0.5


def test_a_row_keeps_its_mask_in_any_batch():
  whole = mask()
  np.testing.assert_array_equal(mask(rows=ROWS[10:20]), whole[10:20])


def test_off_without_a_seed_or_rate():
  x = jax.random.normal(jax.random.key(0), SHAPE)
  assert dropout.dropout(x, 0.5, None, jnp.uint32(0), ROWS) is x
  assert dropout.dropout(x, 0.0, SEED, jnp.uint32(0), ROWS) is x
