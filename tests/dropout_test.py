"""Dropout masks have the right rate, and are independent where they should be.

A z is the deviation of a sum of outcomes from its expectation under independent
masks of the right rate, in standard deviations. Truly random masks exceed
|z| = 4.5 once in 150,000 tests and |z| = 6.5 once in 12 billion, which leaves
room for thousands of pairs or lags in one test. Seeds are fixed: a test that
passes once always passes.
"""

import itertools

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import linen as nn
from jax.sharding import PartitionSpec

from gpt1_jax.model import dropout, heads
from gpt1_jax.train import step as step_lib
from tests.support.meshes import make_mesh

KEY = jnp.array([11, 12], jnp.uint32)
ROWS = jnp.arange(64, dtype=jnp.uint32)
FIRST = jnp.uint32(0)  # a site
SHAPE = (64, 32, 48)
# (layer, site) of a network of 12 layers.
SITES = [
  *itertools.product(
    range(12),
    (dropout.ATTENTION, dropout.RESIDUAL_ATTENTION, dropout.RESIDUAL_MLP),
  ),
  (12, dropout.EMBEDDING),
  (0, dropout.HEAD),
]


def drop_at(rate=0.1, key=KEY, site=FIRST, rows=ROWS):
  return dropout.Dropout(rate, key, site, rows)


@jax.jit
def bits(x, key, layer, site, rows):
  site = dropout.site_id(layer, site)
  return dropout.random_bits(x.shape, drop_at(0.0, key, site, rows))


def dropped(
  key=KEY, layer=3, site=dropout.ATTENTION, rows=ROWS, rate=0.1, shape=SHAPE
):
  """Returns 1 - rate where an element is dropped, else -rate: the mean is 0."""
  x = jnp.zeros((len(rows), *shape[1:]))
  below = bits(x, key, layer, site, rows) < np.uint32(round(rate * 2**32))
  return np.asarray(below).astype(np.float32) - np.float32(rate)


def correlations(streams, rate=0.1):
  """Returns the z of each pair of streams [n, ...] of `dropped`."""
  x = streams.reshape(len(streams), -1).astype(np.float64)
  products = x @ x.T / (rate * (1 - rate) * x.shape[1] ** 0.5)
  return products[np.triu_indices(len(x), 1)]


def assert_independent(z):
  """Bounds each pair, and the sum of their squares, which is chi^2."""
  assert np.abs(z).max() < 6.5
  assert abs((z**2).sum() - len(z)) < 4.5 * (2 * len(z)) ** 0.5


@pytest.mark.parametrize('rate', [0.1, 0.5, 0.9])
def test_rate_and_scale(rate):
  ones = jnp.ones(SHAPE)
  out = np.asarray(dropout.apply(ones, drop_at(rate)))
  sigma = (rate * (1 - rate) / out.size) ** 0.5
  assert abs((out == 0).mean() - rate) < 4.5 * sigma
  np.testing.assert_allclose(out[out != 0], 1 / (1 - rate), rtol=1e-7)


def test_rate_at_every_site():
  """Tests each site alone, and all 3.7 million outcomes."""
  z = []
  for layer, site in SITES:
    x = dropped(layer=layer, site=site)
    z.append(x.mean(dtype=np.float64) / (0.09 / x.size) ** 0.5)
  assert np.abs(z).max() < 4.5
  assert abs(np.sum(z)) < 4.5 * len(z) ** 0.5


def test_bfloat16_is_scaled_without_bias():
  x = jax.random.normal(jax.random.key(0), SHAPE).astype(jnp.bfloat16)
  out = dropout.apply(x, drop_at())
  assert out.dtype == jnp.bfloat16
  out, exact = np.asarray(out, np.float64), np.asarray(x, np.float64) / 0.9
  out, exact = out[out != 0], exact[out != 0]
  np.testing.assert_allclose(out, exact, rtol=2**-8)  # one rounding
  slope = (out * exact).sum() / (exact**2).sum()
  assert slope == pytest.approx(1, abs=2e-4)


def test_sites_and_layers_are_independent():
  streams = [dropped(layer=layer, site=site) for layer, site in SITES]
  assert_independent(correlations(np.stack(streams)))


def test_updates_and_seeds_are_independent():
  streams = [
    dropped(key=step_lib.update_key(seed, jnp.int32(step)))
    for seed in (0, 1, 2)
    for step in range(12)
  ]
  # Keys that differ in one bit; `update_key` returns no such pair.
  streams += [
    dropped(key=KEY ^ jnp.array([high << bit, (1 - high) << bit], jnp.uint32))
    for bit in range(0, 32, 3)
    for high in (0, 1)
  ]
  assert_independent(correlations(np.stack(streams)))


@pytest.mark.parametrize('first', [0, 2**20])
def test_examples_are_independent(first):
  """Compares rows of a batch, with low or high ids, at every distance."""
  x = dropped(rows=ROWS + first, shape=(64, 2**14))
  assert_independent(correlations(x))
  assert_independent(correlations(dropped(rows=ROWS << 20, shape=(64, 2**14))))
  spectrum = np.fft.rfft(x.astype(np.float64), axis=1)
  for lag in (1, 2, 8, 32):  # in rows; the spectrum covers all in elements
    products = spectrum[lag:] * np.conj(spectrum[:-lag])
    z = np.fft.irfft(products, axis=1) / (0.09 * 2**7)
    assert np.abs(z).max() < 6.5


@pytest.mark.parametrize('rate', [0.1, 0.5])
def test_no_serial_correlation_along_any_axis(rate):
  """Tests every distance in a row [heads, queries, keys] of attention."""
  shape = (2, 4, 192, 192)
  x = dropped(rate=rate, rows=ROWS[:2], shape=shape).reshape(2, -1)
  n = x.shape[1]
  spectrum = np.fft.rfft(x.astype(np.float64), 2 * n, axis=1)
  lags = np.arange(1, n - 500)
  z = np.fft.irfft(np.abs(spectrum) ** 2, axis=1)[:, lags]
  z /= rate * (1 - rate) * np.sqrt(n - lags)
  assert np.abs(z).max() < 6.5
  along = z[:, [0, 1, 2, 191, 383, 575, 192 * 192 - 1, 2 * 192 * 192 - 1]]
  assert np.abs(along).max() < 4.5  # neighbours along each axis


def test_pairs_of_bytes_are_uniform():
  """Bounds chi^2 over 65,536 pairs: in a row, across rows and layers."""
  x = jnp.zeros((2, 2**22))
  here = np.asarray(bits(x, KEY, 0, dropout.ATTENTION, ROWS[:2])) >> 24
  above = np.asarray(bits(x, KEY, 1, dropout.ATTENTION, ROWS[:2])) >> 24
  row, below = here.astype(np.int64)
  pairs = [(row[lag:], row[:-lag]) for lag in (1, 2, 64, 512, 4096)]
  pairs += [(row, below), (row, above[0].astype(np.int64))]
  for a, b in pairs:
    counts = np.bincount(a * 256 + b, minlength=2**16)
    expected = len(a) / 2**16
    chi_2 = ((counts - expected) ** 2 / expected).sum()
    assert abs(chi_2 - (2**16 - 1)) < 4.5 * (2 * 2**16) ** 0.5


def test_dropped_neighbours_are_binomial():
  """Counts those dropped among 16, 48 or 768 neighbours."""
  x = dropped().reshape(-1) + np.float32(0.1)
  for size in (16, 48, 768):
    counts = x.reshape(-1, size).sum(axis=1)
    variance = size * 0.09
    # Variance of the squared deviation of a binomial.
    spread = variance * (1 + 2 * variance - 6 * 0.09)
    z = ((counts - size * 0.1) ** 2 - variance).sum()
    assert abs(z) < 4.5 * (len(counts) * spread) ** 0.5


@pytest.mark.parametrize('sizes', [(8, 1, 1), (1, 8, 1), (2, 2, 2), (1, 2, 4)])
def test_masks_are_the_same_on_every_mesh(sizes):
  """Compares bit for bit; the shards are as independent as rows are."""
  ones = jnp.ones((16, 8, 32, 32))
  site = dropout.site_id(2, dropout.ATTENTION)

  def mask(x):
    return dropout.apply(x, drop_at(site=site, rows=ROWS[:16]))

  whole = np.asarray(jax.jit(mask)(ones))
  placed = jax.sharding.NamedSharding(
    make_mesh(*sizes), PartitionSpec(('data', 'fsdp'), 'tensor')
  )
  out = jax.jit(mask, in_shardings=placed, out_shardings=placed)(ones)
  np.testing.assert_array_equal(out, whole)
  shares = [
    np.asarray(shard.data == 0, np.float32) - np.float32(0.1)
    for shard in out.addressable_shards
  ]
  assert len(shares) == 8
  assert_independent(correlations(np.stack(shares)))


def test_an_example_has_the_same_mask_in_any_batch():
  np.testing.assert_array_equal(dropped(rows=ROWS[10:20]), dropped()[10:20])


def test_the_choices_of_an_example_share_the_head_mask():
  """Expects one mask per example (C: train.py), of the right rate."""
  head, ids = heads.Head('choice', 1, 0.1), {'example_ids_B': ROWS[:32]}
  h_BCD = jnp.ones((32, 4, 768))
  params = nn.unbox(
    head.init(jax.random.key(0), h_BCD, dropout_key=None, **ids)
  )
  params = jax.tree.map(jnp.ones_like, params)

  def total(h_BCD):
    return head.apply(params, h_BCD, dropout_key=KEY, **ids).sum()

  mask_BCD = np.asarray(jax.grad(total)(h_BCD))
  for choice in range(1, 4):
    np.testing.assert_array_equal(mask_BCD[:, choice], mask_BCD[:, 0])
  x = (mask_BCD[:, 0] == 0).astype(np.float32) - np.float32(0.1)
  assert abs(x.mean()) < 4.5 * (0.09 / x.size) ** 0.5
  assert_independent(correlations(x))


def test_without_key_or_rate_nothing_is_dropped():
  x = jax.random.normal(jax.random.key(0), SHAPE)
  assert dropout.apply(x, drop_at(0.5, key=None)) is x
  assert dropout.apply(x, drop_at(0.0)) is x
