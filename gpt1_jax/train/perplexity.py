"""Perplexity of a split, per token and per word."""

import math
from collections.abc import Callable
from typing import Any

import jax

from gpt1_jax.model import models
from gpt1_jax.train import sharding, step as step_lib


def perplexity_fn(
  model: models.Model,
  mesh: jax.sharding.Mesh,
  split: Any,
  words: int,
) -> Callable[[Any], dict[str, float]]:
  """Parameters → loss and perplexities of a split (`windows.Windows`).

  Every token but the first (of the split, or of each document where windows
  stay within one) is a target exactly once. The perplexity per word divides
  the same sum by the number of words, so that vocabularies compare.
  """
  loss_fn = step_lib.pretrain_loss(model)

  @jax.jit
  def sums(params, batch):
    return loss_fn(params, batch, None, None)[:2]

  def evaluate(params: Any) -> dict[str, float]:
    nats, tokens = 0.0, 0.0
    for step in range(split.steps_per_epoch):
      batch = sharding.put_batch(split.batch(step), mesh)
      loss, weight = jax.device_get(sums(params, batch))
      nats, tokens = nats + float(loss), tokens + float(weight)
    return {
      'eval_loss': nats / tokens,
      'eval_perplexity': math.exp(min(nats / tokens, 700.0)),
      'eval_word_perplexity': math.exp(min(nats / max(words, 1), 700.0)),
    }

  return evaluate
