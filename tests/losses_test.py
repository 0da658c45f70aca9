"""Losses against the plain formula."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from gpt1_jax.train import losses, task_losses

CHUNKS = pytest.mark.parametrize('chunk', [8, 64, 10_000])


def draw():
  """Draws states, an embedding, tokens and weights."""
  keys = jax.random.split(jax.random.key(0), 4)
  return (
    jax.random.normal(keys[0], (4, 13, 8)),
    jax.random.normal(keys[1], (29, 8)),
    jax.random.randint(keys[2], (4, 13), 0, 29),
    jax.random.uniform(keys[3], (4, 13)),
  )


def plain(h_BTD, embed_VD, tokens_BT, weights_BT):
  logits = jnp.einsum('btd,vd->btv', h_BTD[:, :-1], embed_VD)
  log_probs = jax.nn.log_softmax(logits)
  picked = jnp.take_along_axis(log_probs, tokens_BT[:, 1:, None], 2)[..., 0]
  return -(picked * weights_BT[:, 1:]).sum()


@CHUNKS
def test_chunked_equals_plain(chunk, monkeypatch):
  monkeypatch.setattr(losses, 'CHUNK_TOKENS', chunk)
  args = draw()
  (found, grads), (expected, expected_grads) = (
    jax.jit(
      jax.value_and_grad(lambda *args, f=f: 3.0 * f(*args), argnums=(0, 1, 3))
    )(*args)
    for f in (losses.lm_loss, plain)
  )
  np.testing.assert_allclose(found, expected, rtol=1e-6)
  for a, b in zip(grads, expected_grads, strict=True):
    np.testing.assert_allclose(a, b, rtol=1e-5, atol=1e-5)
  alone = losses.lm_loss(*args)  # no gradient: other code
  assert alone == pytest.approx(float(found) / 3, rel=1e-6)


@CHUNKS
def test_accelerator_stores_bfloat16_logits_and_sums_in_float32(
  chunk, monkeypatch
):
  monkeypatch.setattr(losses, 'ACCELERATOR_CHUNK_TOKENS', {'float32': chunk})
  monkeypatch.setattr(losses, 'platform', lambda: 'tpu')
  h, table, tokens, weights = draw()
  h, rounded = h.astype(jnp.bfloat16), table.astype(jnp.bfloat16)
  found, grads = jax.jit(jax.value_and_grad(losses.lm_loss, argnums=(0, 1)))(
    h, table, tokens, weights
  )
  expected, expected_grads = jax.value_and_grad(plain, argnums=(0, 1))(
    h.astype(jnp.float32), rounded.astype(jnp.float32), tokens, weights
  )
  assert found.dtype == jnp.float32
  assert found == pytest.approx(float(expected), rel=2e-3)
  assert found != pytest.approx(float(expected), rel=1e-7)  # they are rounded
  for a, b in zip(grads, expected_grads, strict=True):
    np.testing.assert_allclose(a.astype(jnp.float32), b, atol=0.03)


@pytest.mark.parametrize('size', [0.1, 1, 4])
def test_accelerator_subtracts_the_targets_logit(size, monkeypatch):
  monkeypatch.setattr(losses, 'platform', lambda: 'tpu')
  h, table, tokens, weights = draw()
  args = (size * h, table, tokens, weights)
  nll = plain(*args[:3], jnp.ones_like(weights)) / 48
  assert nll > 10 or size < 4
  (found, grads), (expected, expected_grads) = (
    jax.value_and_grad(f, argnums=(0, 1, 3))(*args)
    for f in (losses.lm_loss, plain)
  )
  np.testing.assert_allclose(found, expected, rtol=1e-5)
  for a, b in zip(grads, expected_grads, strict=True):
    np.testing.assert_allclose(a, b, rtol=1e-4, atol=1e-5 * size)


def test_accelerator_limits_the_loss_of_a_token(monkeypatch):
  monkeypatch.setattr(losses, 'platform', lambda: 'tpu')
  h, table = jnp.ones((1, 2, 8)), jnp.zeros((29, 8)).at[3].set(1e3)
  found, grads = jax.value_and_grad(losses.lm_loss, argnums=(0, 1))(
    h, table, jnp.array([[0, 5]]), jnp.ones((1, 2))
  )
  assert found == pytest.approx(losses.MAX_EXCESS, rel=1e-6)  # not 8,000
  expected = jnp.zeros_like(table).at[3].set(1).at[5].set(-1)  # p(3) = 1
  np.testing.assert_allclose(grads[1], expected, atol=1e-6)


@CHUNKS
def test_log_probabilities_of_tokens(chunk, monkeypatch):
  monkeypatch.setattr(losses, 'CHUNK_TOKENS', chunk)
  h, table, tokens, _ = draw()
  found = losses.token_log_probs(h, table, tokens)
  assert found.shape == tokens.shape
  assert not found[:, 0].any()
  one_at_a_time = jax.vmap(
    lambda weights: plain(h, table, tokens, weights.reshape(4, 13))
  )
  expected = -one_at_a_time(jnp.eye(4 * 13)).reshape(4, 13)
  np.testing.assert_allclose(found[:, 1:], expected[:, 1:], rtol=1e-5)


def test_weights_of_both_reductions():
  """Weighs two examples of two sequences, with 6 targets, and padding."""
  targets = [
    [[1.0, 1, 1, 0], [1, 1, 0, 0]],
    [[1, 1, 0, 0], [0, 1, 1, 0]],
    [[1, 1, 1, 1], [1, 1, 1, 1]],
  ]
  batch = {
    'lm_weights': jnp.array(targets),
    'example_weight': jnp.array([1.0, 1, 0]),
    'mean_targets': jnp.full(3, 3.0),
  }
  third = 2 / 6  # two examples, six targets
  for reduction, long, short in (
    ('tokens', [0, third, third, 0], [0, third, 0, 0]),
    ('sequences', [0, 0.25, 0.25, 0], [0, 0.5, 0, 0]),
  ):
    found = task_losses.lm_weights(batch, reduction)
    expected = [[long, short], [short, long], [[0] * 4] * 2]
    np.testing.assert_allclose(found, expected, rtol=1e-7)
  np.testing.assert_array_equal(found, expected)  # of the second


LOGITS = np.log([[0.2, 0.3, 0.5]])


@pytest.mark.parametrize(
  ('outputs', 'labels', 'low', 'expected'),
  [
    ([[0.0, np.log(3.0)], [1.0, 1.0]], [1, 0], 0.0, [-np.log(0.75), np.log(2)]),
    ([[0.0], [1.0]], [2.0, 1.5], 0.0, [4.0, 0.25]),
    # Two classes share a value between them.
    (LOGITS, [1.25], 1.0, [-0.75 * LOGITS[0, 0] - 0.25 * LOGITS[0, 1]]),
  ],
)
def test_task_loss(outputs, labels, low, expected):
  found = task_losses.task_loss(jnp.asarray(outputs), jnp.array(labels), low)
  np.testing.assert_allclose(found, expected, rtol=1e-6)


def test_soft_classes_by_hand():
  np.testing.assert_allclose(
    task_losses.soft_classes(jnp.array([2.25, 0.0, 3.0, 9.0]), 4),
    [[0, 0, 0.75, 0.25], [1, 0, 0, 0], [0, 0, 0, 1], [0, 0, 0, 1]],
    atol=1e-6,
  )
  values = jnp.linspace(0, 5, 41)
  spread = task_losses.soft_classes(values, 6)
  np.testing.assert_allclose(spread.sum(1), np.ones(41), rtol=1e-6)
  np.testing.assert_allclose(spread @ jnp.arange(6.0), values, atol=1e-5)
