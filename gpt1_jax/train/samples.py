"""Draws a sample from the parameters while a model is trained, on any mesh."""

import functools
from collections.abc import Callable, Sequence
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from gpt1_jax.model import decoding, models, sampling
from gpt1_jax.train import sharding, step

PROMPT_TOKENS = 8
_RULES = sampling.Sampling(greedy=False, temperature=1.0, top_k=40, top_p=1.0)


def sampler(
  model: models.Model,
  mesh: jax.sharding.Mesh,
  prompt: Sequence[int],
  num_tokens: int,
) -> Callable[[step.Params], list[int]]:
  """Returns a function that maps parameters to a continued prompt.

  The same parameters give the same tokens. Reads the whole text again for each
  token, without a cache: a sample costs as much as a few updates, but the
  parameters need no conversion.

  Args:
    prompt: tokens to continue; a short context cuts them.
    num_tokens: tokens to draw; fewer if the context is full.
  """
  config, rows = model.config, sharding.num_batch_parts(mesh)
  prompt = prompt[: max(1, config.n_ctx // 2)]
  length = min(len(prompt) + num_tokens, config.n_ctx)
  tokens_BT = np.zeros((rows, decoding.width(length, config.n_ctx)), np.int32)
  tokens_BT[:, : len(prompt)] = prompt
  rules = sampling.stack_rules([_RULES] * rows)

  @functools.partial(jax.jit, out_shardings=sharding.replicated(mesh))
  def draw(params: Any, tokens_BT: jax.Array) -> jax.Array:
    keys_B = jnp.broadcast_to(jax.random.key(0), rows)

    def one(t: jax.Array, tokens_BT: jax.Array) -> jax.Array:
      out: Any = model.apply({'params': params}, tokens_BT, dropout_key=None)
      h_BD = jax.lax.dynamic_index_in_dim(out[0], t - 1, axis=1, keepdims=False)
      logits_BV = sampling.next_logits(config, params, h_BD)
      steps_B = jnp.full(rows, t)
      token_B = sampling.choose(logits_BV, keys_B, steps_B, rules)
      return tokens_BT.at[:, t].set(token_B)

    return jax.lax.fori_loop(len(prompt), length, one, tokens_BT)

  def sample(params: step.Params) -> list[int]:
    placed = sharding.put(tokens_BT, sharding.batch_sharding(mesh))
    drawn_BT = jax.device_get(draw(params['gpt'], placed))
    return drawn_BT[0, :length].tolist()

  return sample
