"""Chooses the next token of each row: temperature, top-k, top-p, greedy.

The rules of a row are arrays, so that changing them compiles nothing.
"""

import dataclasses
from collections.abc import Sequence
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from gpt1_jax.model import gpt
from gpt1_jax.settings import ModelConfig

_LEAST_TEMPERATURE = 1e-5  # dividing logits by less may overflow


@dataclasses.dataclass(frozen=True)
class Sampling:
  """Rules that choose the next token.

  Attributes:
    greedy: True takes the most likely token and ignores the other fields.
    temperature: divisor of the logits; below 1e-5 like greedy.
    top_k: samples from the k most likely tokens; 0 samples from all.
    top_p: samples from the smallest set of tokens whose probability reaches
      top_p, after temperature and top_k; 1 samples from all.
  """

  greedy: bool
  temperature: float
  top_k: int
  top_p: float


class Rules(NamedTuple):
  """The `Sampling` of each row as arrays.

  Attributes:
    temperature_B: float32, 0 where the row is greedy.
    top_k_B: int32, 0 where the row samples from all.
    top_p_B: float32.
  """

  temperature_B: np.ndarray | jax.Array
  top_k_B: np.ndarray | jax.Array
  top_p_B: np.ndarray | jax.Array


def next_logits(config: ModelConfig, params: Any, h_BD: jax.Array) -> jax.Array:
  """Returns float32 [B, V]: the logits of the vocabulary's tokens."""
  # Cut the logits to the vocabulary: cutting the matrix would copy it.
  logits_BV = gpt.logits(h_BD[:, None], params['tokens_embed'])[:, 0]
  return logits_BV[:, : config.vocab_size]


def choose(
  logits_BV: jax.Array, keys_B: jax.Array, steps_B: jax.Array, rules: Rules
) -> jax.Array:
  """Returns int32 [B]: a token of each row.

  Args:
    logits_BV: from `next_logits`.
    keys_B: key of each row.
    steps_B: int32, the number of each row's token; folded into its key.
    rules: how each row chooses.
  """
  best_B = logits_BV.argmax(axis=-1).astype(jnp.int32)

  def sampled() -> jax.Array:
    folded_B = jax.vmap(jax.random.fold_in)(keys_B, steps_B)
    drawn_B = jax.vmap(jax.random.categorical)(
      folded_B, kept_logits(logits_BV, rules)
    )
    return jnp.where(rules.temperature_B > 0, drawn_B, best_B)

  any_sampled = jnp.any(rules.temperature_B > 0)
  return jax.lax.cond(any_sampled, sampled, lambda: best_B).astype(jnp.int32)


def kept_logits(logits_BV: jax.Array, rules: Rules) -> jax.Array:
  """Returns logits divided by the temperature, -inf for excluded tokens."""
  temperature_B = jnp.where(rules.temperature_B > 0, rules.temperature_B, 1.0)
  logits_BV = logits_BV / temperature_B[:, None]
  top_k_B, top_p_B = jnp.asarray(rules.top_k_B), jnp.asarray(rules.top_p_B)

  def cut() -> jax.Array:
    V = logits_BV.shape[-1]
    sorted_BV = jnp.sort(logits_BV, axis=-1, descending=True)
    k_B1 = jnp.where(top_k_B > 0, jnp.minimum(top_k_B, V), V)[:, None]
    least_B1 = jnp.take_along_axis(sorted_BV, k_B1 - 1, axis=-1)
    sorted_BV = jnp.where(sorted_BV < least_B1, -jnp.inf, sorted_BV)
    probs_BV = jax.nn.softmax(sorted_BV)
    before_BV = jnp.cumsum(probs_BV, axis=-1) - probs_BV
    kept_BV = (before_BV < top_p_B[:, None]) | (top_p_B >= 1)[:, None]
    kept_BV = (kept_BV & (sorted_BV > -jnp.inf)).at[:, 0].set(True)
    least_B1 = jnp.where(kept_BV, sorted_BV, jnp.inf).min(-1, keepdims=True)
    return jnp.where(logits_BV < least_B1, -jnp.inf, logits_BV)

  needed = jnp.any((top_k_B > 0) | (top_p_B < 1))
  return jax.lax.cond(needed, cut, lambda: logits_BV)


def stack_rules(samplings: Sequence[Sampling]) -> Rules:
  """Returns the rules of each row as arrays."""
  greedy = [s.greedy or s.temperature < _LEAST_TEMPERATURE for s in samplings]
  temperatures = [s.temperature for s in samplings]
  return Rules(
    np.where(greedy, 0.0, temperatures).astype(np.float32),
    np.array([min(s.top_k, 2**31 - 1) for s in samplings], np.int32),
    np.array([s.top_p for s in samplings], np.float32),
  )
