"""Small GPT and LSTM configurations, and parameters for them."""

import dataclasses
import functools
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from flax import linen as nn

from gpt1_jax.model import dropout, gpt, lstm
from gpt1_jax.settings import GPTConfig, LSTMConfig
from tests.support import reference

GPT_CONFIG = GPTConfig(
  kind='gpt',
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
  attention='auto',
  remat='none',
  unroll=1,
)
# The departures of the released code (docs/reference.md §3).
RELEASED_CONFIG = dataclasses.replace(
  GPT_CONFIG, embedding_dropout='matrix', softmax_rows='all'
)
LSTM_CONFIG = LSTMConfig(
  kind='lstm',
  units=48,
  n_embd=32,
  n_ctx=16,
  vocab_size=101,
  n_special=0,
  embd_pdrop=0.1,
  output_pdrop=0.1,
  dtype='float32',
)
DROPOUT_KEY = jnp.array([3, 5], jnp.uint32)


@functools.cache
def fresh_gpt(config: GPTConfig) -> tuple[gpt.GPT, Any, jax.Array]:
  """Returns a GPT, its initial variables and tokens int32 [3, n_ctx]."""
  model = gpt.GPT(config)
  tokens = jax.random.randint(
    jax.random.key(1), (3, config.n_ctx), 0, config.vocab_size
  )
  init = jax.jit(functools.partial(model.init, dropout_key=None))
  return model, nn.unbox(init(jax.random.key(0), tokens)), tokens


def gpt_params(config: GPTConfig, seed: int = 0) -> Any:
  """Draws GPT parameters large enough that every operation matters.

  Weights have a standard deviation of 0.15, gains lie around 1, biases are 0.
  """
  rng = np.random.default_rng(seed)

  def draw(path, leaf):
    name = path[-1].key
    if name == 'bias':
      return jnp.zeros(leaf.shape)
    x = rng.normal(size=leaf.shape) * 0.15
    return jnp.asarray(x + (name == 'scale'), jnp.float32)

  fresh = fresh_gpt(config)[1]['params']
  return jax.tree_util.tree_map_with_path(draw, fresh)


@functools.cache
def lstm_params() -> Any:
  """Draws LSTM parameters, biases too: no gate saturates or stays at 1/2."""
  tokens = jnp.zeros((1, LSTM_CONFIG.n_ctx), jnp.int32)
  fresh = lstm.LSTM(LSTM_CONFIG).init(
    jax.random.key(0), tokens, dropout_key=None
  )
  rng = np.random.default_rng(0)
  return jax.tree.map(
    lambda x: jnp.asarray(rng.normal(size=x.shape) * 0.3, jnp.float32),
    nn.unbox(fresh['params']),
  )


def gpt_dropout(
  config: GPTConfig, dropout_key: jax.Array, clf_pdrop: float = 0.0
) -> reference.Drop:
  """Returns the `drop` of `reference.forward` with the package's masks."""
  sites = {
    'embedding': (config.embd_pdrop, dropout.EMBEDDING),
    'attention': (config.attn_pdrop, dropout.ATTENTION),
    'residual_attention': (config.resid_pdrop, dropout.RESIDUAL_ATTENTION),
    'residual_mlp': (config.resid_pdrop, dropout.RESIDUAL_MLP),
    'head': (clf_pdrop, dropout.HEAD),
  }
  layers = {'embedding': config.n_layer, 'head': 0}

  def drop(site, layer, x):
    rate, number = sites[site]
    number = dropout.site_id(layers.get(site, layer), number)
    example_ids = jnp.arange(len(x), dtype=jnp.uint32)
    spec = dropout.Dropout(rate, dropout_key, number, example_ids)
    return x * np.asarray(dropout.apply(jnp.ones(x.shape), spec))

  return drop
