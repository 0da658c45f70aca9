"""The network: its size, its causality, its start, what must not change it."""

import dataclasses
import math

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import linen as nn

from gpt1_jax.errors import UserError
from gpt1_jax.model import gpt
from gpt1_jax.train import losses

SMALL = gpt.GPTConfig(
  n_layer=2,
  n_head=4,
  n_embd=64,
  n_ctx=16,
  vocab_size=101,
  n_special=0,
  embd_pdrop=0.1,
  attn_pdrop=0.1,
  resid_pdrop=0.1,
  embedding_dropout='sum',
  softmax_rows='tokens',
  dtype='float32',
  remat='none',
  unroll=1,
)
OPENAI = dataclasses.replace(
  SMALL, embedding_dropout='matrix', softmax_rows='all'
)
SEED = jnp.array([3, 5], jnp.uint32)


def make(config):
  model = gpt.GPT(config)
  tokens = jax.random.randint(
    jax.random.key(1), (3, config.n_ctx), 0, config.vocab_size
  )
  params = nn.unbox(model.init(jax.random.key(0), tokens, seed_2=None))
  return model, params, tokens


def random_params(config, seed=0):
  """Weights at which nothing is near uniform, zero or one but biases."""
  shapes = jax.eval_shape(lambda: make(config)[1])['params']
  rng = np.random.default_rng(seed)

  def draw(path, leaf):
    name = path[-1].key
    if name == 'bias':
      return jnp.zeros(leaf.shape)
    x = rng.normal(size=leaf.shape) * 0.15
    return jnp.asarray(x + (name == 'scale'), jnp.float32)

  return jax.tree_util.tree_map_with_path(draw, shapes)


def loss(model, params, tokens, seed_2=SEED):
  h_BTD, embed_VD = model.apply(params, tokens, seed_2=seed_2)
  return losses.lm_loss(h_BTD, embed_VD, tokens, jnp.ones(tokens.shape))


def test_parameters_of_the_released_shapes():
  config = dataclasses.replace(
    SMALL, n_layer=12, n_head=12, n_embd=768, n_ctx=512, vocab_size=40478
  )
  shapes = jax.eval_shape(
    lambda: gpt.GPT(config).init(
      jax.random.key(0), jnp.zeros((1, 8), jnp.int32), seed_2=None
    )
  )
  count = sum(math.prod(x.shape) for x in jax.tree.leaves(shapes))
  assert count == gpt.num_parameters(config) == 116_534_784
  assert gpt.flops_per_token(config) == 752_753_664


def test_no_position_sees_a_later_one():
  model, params, tokens = make(SMALL)
  positions = params['params']['positions_embed']
  weights = jnp.arange(1.0, SMALL.n_embd + 1)
  for t in (0, 7, 15):

    def one(h, t=t):
      changed = {**params['params'], 'positions_embed': h}
      out, _ = model.apply({'params': changed}, tokens[:1], seed_2=None)
      return (out[0, t] * weights).sum()

    grad = np.abs(np.asarray(jax.grad(one)(positions))).sum(axis=1)
    assert (grad[: t + 1] > 0).all()
    assert (grad[t + 1 :] == 0).all()


def test_the_softmax_is_tied_to_the_embedding():
  model, params, tokens = make(SMALL)
  h_BTD, embed_VD = model.apply(params, tokens, seed_2=None)
  np.testing.assert_array_equal(embed_VD, params['params']['tokens_embed'])
  expected = np.einsum('btd,vd->btv', h_BTD, embed_VD)
  np.testing.assert_allclose(
    gpt.logits(h_BTD, embed_VD), expected, atol=2e-6, rtol=0
  )


def test_all_rows_and_matrix_dropout_of_the_released_code():
  config = dataclasses.replace(
    SMALL, embedding_dropout='matrix', softmax_rows='all', embd_pdrop=0.5
  )
  model, params, tokens = make(config)
  _, matrix = model.apply(params, tokens, seed_2=SEED)
  assert matrix.shape == (101 + 16, 64)
  whole = np.concatenate(
    [params['params']['tokens_embed'], params['params']['positions_embed']]
  )
  kept = np.asarray(matrix) != 0
  np.testing.assert_allclose(
    np.asarray(matrix)[kept], 2 * whole[kept], rtol=1e-6
  )
  assert abs(kept.mean() - 0.5) < 0.03


def test_loss_starts_at_the_logarithm_of_the_vocabulary():
  model, params, tokens = make(dataclasses.replace(SMALL, vocab_size=2000))
  start = loss(model, params, tokens, None) / (3 * 15)
  assert abs(float(start) - math.log(2000)) < 0.1


@pytest.mark.parametrize(
  'change', [{'remat': 'dots'}, {'remat': 'full'}, {'unroll': 2}]
)
def test_recomputed_and_unrolled_equal_stored_and_looped(change):
  model, params, tokens = make(SMALL)
  other = gpt.GPT(dataclasses.replace(SMALL, **change))
  a = jax.jit(jax.grad(lambda p: loss(model, p, tokens)))(params)
  b = jax.jit(jax.grad(lambda p: loss(other, p, tokens)))(params)
  for x, y in zip(jax.tree.leaves(a), jax.tree.leaves(b), strict=True):
    np.testing.assert_allclose(x, y, rtol=1e-5, atol=1e-5)


def test_bfloat16_stays_near_float32():
  model, params, tokens = make(SMALL)
  other = gpt.GPT(dataclasses.replace(SMALL, dtype='bfloat16'))
  a, _ = model.apply(params, tokens, seed_2=None)
  b, _ = other.apply(params, tokens, seed_2=None)
  assert b.dtype == jnp.bfloat16
  assert float(jnp.abs(a - b.astype(jnp.float32)).max()) < 0.1
  grad = jax.jit(jax.grad(lambda p: loss(other, p, tokens)))(params)
  reference = jax.jit(jax.grad(lambda p: loss(model, p, tokens)))(params)
  for x, y in zip(
    jax.tree.leaves(grad), jax.tree.leaves(reference), strict=True
  ):
    assert x.dtype == jnp.float32
    assert float(jnp.linalg.norm(x - y)) < 0.05 * float(jnp.linalg.norm(y)) + 1


@pytest.mark.parametrize(
  ('change', 'word'),
  [
    ({'n_head': 5}, 'n_head'),
    ({'n_layer': 0}, 'n_layer'),
    ({'attn_pdrop': 1.0}, 'attn_pdrop'),
    ({'dtype': 'float16'}, 'dtype'),
    ({'unroll': 0}, 'unroll'),
  ],
)
def test_impossible_settings_are_named(change, word):
  with pytest.raises(UserError, match=word):
    dataclasses.replace(SMALL, **change)
