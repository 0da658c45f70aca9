"""Masks: the right rate, and independent wherever they should be.

A z is a sum of outcomes against what independent ones of the right rate give,
in standard deviations. A bound says how often truly random masks would break
it: |z| < 4.5 once in 150,000, |z| < 6.5 once in 12 billion, so that thousands
of pairs or lags can be looked at together. The seeds are fixed: a test that
passes goes on passing.
"""

import itertools

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import linen as nn
from jax.sharding import PartitionSpec

from gpt1_jax.model import dropout, heads
from gpt1_jax.train import sharding, step as step_lib

SEED = jnp.array([11, 12], jnp.uint32)
ROWS = jnp.arange(64, dtype=jnp.uint32)
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


@jax.jit
def bits(x, seed, layer, site, rows):
  return dropout.keep_bits(x.shape, seed, dropout.site_id(layer, site), rows)


def dropped(
  seed=SEED, layer=3, site=dropout.ATTENTION, rows=ROWS, rate=0.1, shape=SHAPE
):
  """1.0 where an element is dropped, less the rate: its mean is 0."""
  x = jnp.zeros((len(rows), *shape[1:]))
  below = bits(x, seed, layer, site, rows) < np.uint32(round(rate * 2**32))
  return np.asarray(below).astype(np.float32) - np.float32(rate)


def correlations(streams, rate=0.1):
  """The z of each pair of streams [n, ...] of `dropped`."""
  x = streams.reshape(len(streams), -1).astype(np.float64)
  products = x @ x.T / (rate * (1 - rate) * x.shape[1] ** 0.5)
  return products[np.triu_indices(len(x), 1)]


def assert_independent(z):
  """No pair stands out, nor do all together: the sum of squares is chi^2."""
  assert np.abs(z).max() < 6.5
  assert abs((z**2).sum() - len(z)) < 4.5 * (2 * len(z)) ** 0.5


@pytest.mark.parametrize('rate', [0.1, 0.5, 0.9])
def test_rate_and_scale(rate):
  ones = jnp.ones(SHAPE)
  out = np.asarray(dropout.dropout(ones, rate, SEED, jnp.uint32(0), ROWS))
  sigma = (rate * (1 - rate) / out.size) ** 0.5
  assert abs((out == 0).mean() - rate) < 4.5 * sigma
  np.testing.assert_allclose(out[out != 0], 1 / (1 - rate), rtol=1e-7)


def test_rate_at_every_site():
  """At each by itself, and over all of them: 3.7 million outcomes."""
  z = []
  for layer, site in SITES:
    x = dropped(layer=layer, site=site)
    z.append(x.mean(dtype=np.float64) / (0.09 / x.size) ** 0.5)
  assert np.abs(z).max() < 4.5
  assert abs(np.sum(z)) < 4.5 * len(z) ** 0.5


def test_bfloat16_is_scaled_without_bias():
  x = jax.random.normal(jax.random.key(0), SHAPE).astype(jnp.bfloat16)
  out = dropout.dropout(x, 0.1, SEED, jnp.uint32(0), ROWS)
  assert out.dtype == jnp.bfloat16
  out, exact = np.asarray(out, np.float64), np.asarray(x, np.float64) / 0.9
  out, exact = out[out != 0], exact[out != 0]
  np.testing.assert_allclose(out, exact, rtol=2**-8)  # one rounding
  slope = (out * exact).sum() / (exact**2).sum()
  assert slope == pytest.approx(1, abs=2e-4)


def test_sites_and_layers_are_independent():
  streams = [dropped(layer=layer, site=site) for layer, site in SITES]
  assert_independent(correlations(np.stack(streams)))


def test_steps_and_seeds_are_independent():
  streams = [
    dropped(seed=step_lib.dropout_seed(seed, jnp.int32(step)))
    for seed in (0, 1, 2)
    for step in range(12)
  ]
  # Seeds that differ in one bit only, as no step makes them.
  streams += [
    dropped(seed=SEED ^ jnp.array([high << bit, (1 - high) << bit], jnp.uint32))
    for bit in range(0, 32, 3)
    for high in (0, 1)
  ]
  assert_independent(correlations(np.stack(streams)))


@pytest.mark.parametrize('first', [0, 2**20])
def test_examples_are_independent(first):
  """Rows of one batch, far into the corpus or not, at every distance."""
  x = dropped(rows=ROWS + first, shape=(64, 2**14))
  assert_independent(correlations(x))
  assert_independent(correlations(dropped(rows=ROWS << 20, shape=(64, 2**14))))
  spectrum = np.fft.rfft(x.astype(np.float64), axis=1)
  for lag in (1, 2, 8, 32):  # in rows; in elements: all
    products = spectrum[lag:] * np.conj(spectrum[:-lag])
    z = np.fft.irfft(products, axis=1) / (0.09 * 2**7)
    assert np.abs(z).max() < 6.5


@pytest.mark.parametrize('rate', [0.1, 0.5])
def test_no_serial_correlation_along_any_axis(rate):
  """Every distance within a row: attention's heads, queries and keys."""
  shape = (2, 4, 192, 192)
  x = dropped(rate=rate, rows=ROWS[:2], shape=shape).reshape(2, -1)
  n = x.shape[1]
  spectrum = np.fft.rfft(x.astype(np.float64), 2 * n, axis=1)
  lags = np.arange(1, n - 500)
  z = np.fft.irfft(np.abs(spectrum) ** 2, axis=1)[:, lags]
  z /= rate * (1 - rate) * np.sqrt(n - lags)
  assert np.abs(z).max() < 6.5
  along = z[:, [0, 1, 2, 191, 383, 575, 192 * 192 - 1, 2 * 192 * 192 - 1]]
  assert np.abs(along).max() < 4.5  # neighbours along each axis, diagonals not


def test_pairs_of_bytes_are_uniform():
  """Chi^2 of the 65,536 pairs: within a row, then of two rows and layers."""
  x = jnp.zeros((2, 2**22))
  here = np.asarray(bits(x, SEED, 0, dropout.ATTENTION, ROWS[:2])) >> 24
  above = np.asarray(bits(x, SEED, 1, dropout.ATTENTION, ROWS[:2])) >> 24
  row, below = here.astype(np.int64)
  pairs = [(row[lag:], row[:-lag]) for lag in (1, 2, 64, 512, 4096)]
  pairs += [(row, below), (row, above[0].astype(np.int64))]
  for a, b in pairs:
    counts = np.bincount(a * 256 + b, minlength=2**16)
    expected = len(a) / 2**16
    chi_2 = ((counts - expected) ** 2 / expected).sum()
    assert abs(chi_2 - (2**16 - 1)) < 4.5 * (2 * 2**16) ** 0.5


def test_clumps_are_as_rare_as_chance_makes_them():
  """The number dropped of 16, 48 or 768 neighbours is binomial."""
  x = dropped().reshape(-1) + np.float32(0.1)
  for size in (16, 48, 768):
    counts = x.reshape(-1, size).sum(axis=1)
    variance = size * 0.09
    # Variance of a binomial's squared deviation.
    spread = variance * (1 + 2 * variance - 6 * 0.09)
    z = ((counts - size * 0.1) ** 2 - variance).sum()
    assert abs(z) < 4.5 * (len(counts) * spread) ** 0.5


@pytest.mark.parametrize('sizes', [(8, 1, 1), (1, 8, 1), (2, 2, 2), (1, 2, 4)])
def test_devices_hold_their_share_of_the_same_masks(sizes):
  """Bit for bit, whatever the mesh; so devices are as independent as rows."""
  ones = jnp.ones((16, 8, 32, 32))
  site = dropout.site_id(2, dropout.ATTENTION)

  def mask(x):
    return dropout.dropout(x, 0.1, SEED, site, ROWS[:16])

  whole = np.asarray(jax.jit(mask)(ones))
  mesh = sharding.make_mesh(
    jax.devices(), **dict(zip(sharding.MESH_AXES, sizes, strict=True))
  )
  placed = jax.sharding.NamedSharding(
    mesh, PartitionSpec(('data', 'fsdp'), 'tensor')
  )
  out = jax.jit(mask, in_shardings=placed, out_shardings=placed)(ones)
  np.testing.assert_array_equal(out, whole)
  shares = [
    np.asarray(shard.data == 0, np.float32) - np.float32(0.1)
    for shard in out.addressable_shards
  ]
  assert len(shares) == 8
  assert_independent(correlations(np.stack(shares)))


def test_a_row_keeps_its_mask_in_any_batch():
  np.testing.assert_array_equal(dropped(rows=ROWS[10:20]), dropped()[10:20])


def test_choices_share_the_mask_of_the_classifier():
  """One mask an example (C: train.py), of the right rate."""
  head = heads.Head('choice', 1, 0.1)
  h_BCD = jnp.ones((32, 4, 768))
  example_ids_B = ROWS[:32]
  params = nn.unbox(
    head.init(
      jax.random.key(0), h_BCD, dropout_key=None, example_ids_B=example_ids_B
    )
  )
  params = jax.tree.map(jnp.ones_like, params)

  def total(h_BCD):
    return head.apply(
      params, h_BCD, dropout_key=SEED, example_ids_B=example_ids_B
    ).sum()

  mask_BCD = np.asarray(jax.grad(total)(h_BCD))
  for choice in range(1, 4):
    np.testing.assert_array_equal(mask_BCD[:, choice], mask_BCD[:, 0])
  x = (mask_BCD[:, 0] == 0).astype(np.float32) - np.float32(0.1)
  assert abs(x.mean()) < 4.5 * (0.09 / x.size) ** 0.5
  assert_independent(correlations(x))


def test_off_without_a_seed_or_rate():
  x = jax.random.normal(jax.random.key(0), SHAPE)
  assert dropout.dropout(x, 0.5, None, jnp.uint32(0), ROWS) is x
  assert dropout.dropout(x, 0.0, SEED, jnp.uint32(0), ROWS) is x
