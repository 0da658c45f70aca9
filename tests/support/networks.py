"""Small GPT and LSTM configurations, and parameters for them."""

import dataclasses
import functools
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from flax import linen as nn

from gpt1_jax.model import dropout, models
from gpt1_jax.settings import GPTConfig, LSTMConfig, ModelConfig
from tests.support import reference

GPT_CONFIG = GPTConfig(
  kind='gpt', n_layer=2, n_head=4, n_embd=64, n_ctx=16, vocab_size=101,
  n_special=0, embd_pdrop=0.1, attn_pdrop=0.1, resid_pdrop=0.1,
  embedding_dropout='sum', softmax_rows='tokens', dtype='float32',
  attention='auto', remat='none', unroll=1,
)  # fmt: skip
# The departures of the released code (docs/reference.md §3).
RELEASED_CONFIG = dataclasses.replace(
  GPT_CONFIG, embedding_dropout='matrix', softmax_rows='all'
)
LSTM_CONFIG = LSTMConfig(
  kind='lstm', units=48, n_embd=32, n_ctx=16, vocab_size=101, n_special=0,
  embd_pdrop=0.1, output_pdrop=0.1, dtype='float32',
)  # fmt: skip
DROPOUT_KEY = jnp.array([3, 5], jnp.uint32)


@functools.cache
def fresh(config: ModelConfig) -> Any:
  """Returns the initial parameters of a network."""
  init = jax.jit(functools.partial(models.new(config).init, dropout_key=None))
  tokens = jnp.zeros((1, config.n_ctx), jnp.int32)
  return nn.unbox(init(jax.random.key(0), tokens))['params']


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

  return jax.tree_util.tree_map_with_path(draw, fresh(config))


@functools.cache
def lstm_params() -> Any:
  """Draws LSTM parameters, biases included, so that no gate is 0, 1/2 or 1."""
  rng = np.random.default_rng(0)
  return jax.tree.map(
    lambda x: jnp.asarray(rng.normal(size=x.shape) * 0.3, jnp.float32),
    fresh(LSTM_CONFIG),
  )


def masks(
  config: ModelConfig, dropout_key: jax.Array | None, clf_pdrop: float = 0.0
) -> reference.Drop:
  """Returns the `drop` of `reference` with the package's masks."""
  settings = dataclasses.asdict(config) | {'clf_pdrop': clf_pdrop}
  sites = {
    'embedding': ('embd_pdrop', dropout.EMBEDDING),
    'attention': ('attn_pdrop', dropout.ATTENTION),
    'residual_attention': ('resid_pdrop', dropout.RESIDUAL_ATTENTION),
    'residual_mlp': ('resid_pdrop', dropout.RESIDUAL_MLP),
    'output': ('output_pdrop', dropout.LSTM_OUTPUT),
    'head': ('clf_pdrop', dropout.HEAD),
  }

  def drop(site, layer, x):
    rate, number = sites[site]
    if layer is None:
      layer = settings.get('n_layer', 0) if site == 'embedding' else 0
    number = dropout.site_id(layer, number)
    ids = jnp.arange(len(x), dtype=jnp.uint32)
    spec = dropout.Dropout(settings[rate], dropout_key, number, ids)
    return x * np.asarray(dropout.apply(jnp.ones(x.shape), spec))

  return drop
