"""Losses against the plain formula."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from gpt1_jax.train import losses, task_losses


def plain(h_BTD, embed_VD, tokens_BT, weights_BT):
  logits = jnp.einsum('btd,vd->btv', h_BTD[:, :-1], embed_VD)
  log_probs = jax.nn.log_softmax(logits)
  picked = jnp.take_along_axis(log_probs, tokens_BT[:, 1:, None], 2)[..., 0]
  return -(picked * weights_BT[:, 1:]).sum()


@pytest.mark.parametrize('chunk', [8, 64, 10_000])
def test_chunked_equals_plain(chunk, monkeypatch):
  monkeypatch.setattr(losses, 'CHUNK_TOKENS', chunk)
  keys = jax.random.split(jax.random.key(0), 4)
  h = jax.random.normal(keys[0], (4, 13, 8))
  table = jax.random.normal(keys[1], (29, 8))
  tokens = jax.random.randint(keys[2], (4, 13), 0, 29)
  weights = jax.random.uniform(keys[3], (4, 13))
  both = [
    jax.value_and_grad(
      lambda h, e, w, f=f: 3.0 * f(h, e, tokens, w), argnums=(0, 1, 2)
    )(h, table, weights)
    for f in (losses.lm_loss, plain)
  ]
  np.testing.assert_allclose(both[0][0], both[1][0], rtol=1e-6)
  for a, b in zip(both[0][1], both[1][1], strict=True):
    np.testing.assert_allclose(a, b, rtol=1e-5, atol=1e-5)
  assert losses.lm_loss(h, table, tokens, weights) == pytest.approx(
    float(both[0][0]) / 3, rel=1e-6
  )


def test_weights_of_both_reductions():
  """Two examples of two sequences, a padding one; 6 targets in all."""
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
  np.testing.assert_allclose(
    task_losses.lm_weights(batch, 'tokens'),
    [
      [[0, third, third, 0], [0, third, 0, 0]],
      [[0, third, 0, 0], [0, third, third, 0]],
      np.zeros((2, 4)),
    ],
    rtol=1e-7,
  )
  np.testing.assert_array_equal(
    task_losses.lm_weights(batch, 'sequences'),
    [
      [[0, 0.25, 0.25, 0], [0, 0.5, 0, 0]],
      [[0, 0.5, 0, 0], [0, 0.25, 0.25, 0]],
      np.zeros((2, 4)),
    ],
  )


def test_task_loss():
  outputs = jnp.array([[0.0, np.log(3.0)], [1.0, 1.0]])
  np.testing.assert_allclose(
    task_losses.task_loss(outputs, jnp.array([1, 0])),
    [-np.log(0.75), np.log(2)],
    rtol=1e-6,
  )
  np.testing.assert_allclose(
    task_losses.task_loss(outputs[:, :1], jnp.array([2.0, 1.5])), [4.0, 0.25]
  )


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


def test_task_loss_of_soft_classes():
  outputs = jnp.log(jnp.array([[0.2, 0.3, 0.5]]))
  np.testing.assert_allclose(
    task_losses.task_loss(outputs, jnp.array([1.25]), 1.0),
    [-0.75 * np.log(0.2) - 0.25 * np.log(0.3)],
    rtol=1e-6,
  )


@pytest.mark.parametrize('chunk', [8, 64, 10_000])
def test_log_probabilities_of_tokens(chunk, monkeypatch):
  monkeypatch.setattr(losses, 'CHUNK_TOKENS', chunk)
  keys = jax.random.split(jax.random.key(0), 3)
  h = jax.random.normal(keys[0], (4, 13, 8))
  table = jax.random.normal(keys[1], (29, 8))
  tokens = jax.random.randint(keys[2], (4, 13), 0, 29)
  found = losses.token_log_probs(h, table, tokens)
  assert found.shape == tokens.shape
  assert not found[:, 0].any()
  for row in range(4):
    for place in range(1, 13):
      weights = jnp.zeros((4, 13)).at[row, place].set(1.0)
      expected = -plain(h, table, tokens, weights)
      assert found[row, place] == pytest.approx(float(expected), rel=1e-5)
