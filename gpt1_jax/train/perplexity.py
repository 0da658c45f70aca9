"""Computes the perplexity of a split, and its bits per byte."""

import math
from collections.abc import Callable, Mapping
from typing import Any, Protocol

import jax
import jax.numpy as jnp

from gpt1_jax import progress
from gpt1_jax.corpus.metadata import SplitMeta
from gpt1_jax.model import models
from gpt1_jax.train import pulse, sharding, step as step_lib


class Split(Protocol):
  """A split to evaluate: batches 0 .. steps_per_epoch - 1 cover it once."""

  steps_per_epoch: int

  def batch(self, step: int) -> Mapping[str, Any]:
    """Returns this host's rows of a batch."""
    ...


def perplexity_fn(
  model: models.Model, mesh: jax.sharding.Mesh, split: Split, counts: SplitMeta
) -> Callable[[step_lib.Params], dict[str, float]]:
  """Returns a function from parameters to the perplexities of a split.

  Every token except the first one is a target exactly once (the first of the
  split, or of each document if windows do not span documents). Perplexity per
  word divides the same sum by the number of words, and bits per byte divide it
  by the bytes of the cleaned text; both compare across vocabularies. Bits per
  byte are left out if the bytes were not counted.
  """
  loss_fn = step_lib.pretrain_loss(model)

  @jax.jit
  def sums(
    params: step_lib.Params, batch: step_lib.Batch
  ) -> tuple[jax.Array, jax.Array]:
    example_ids_B = jnp.arange(len(batch['tokens']), dtype=jnp.uint32)
    out = loss_fn(params, batch, None, example_ids_B)
    return out.loss, out.weight

  def evaluate(params: step_lib.Params) -> dict[str, float]:
    nats, tokens = 0.0, 0.0
    first = jax.process_index() == 0
    steps = split.steps_per_epoch
    with progress.Progress(
      'evaluate', steps, 'predicted tokens', 'tokens/s', first
    ) as log:
      for step in range(steps):
        batch = sharding.put_batch(split.batch(step), mesh)
        loss, weight = map(float, jax.device_get(sums(params, batch)))
        nats, tokens = nats + loss, tokens + weight
        if step:
          log.add(int(weight), 1, weight)
        else:  # compiles
          log.skip(int(weight), 1)
        pulse.tick('evaluating')
    words, num_bytes = max(counts['words'], 1), counts.get('bytes')
    scores = {
      'eval_loss': nats / tokens,
      'eval_perplexity': math.exp(min(nats / tokens, 700.0)),
      'eval_word_perplexity': math.exp(min(nats / words, 700.0)),
    }
    if num_bytes:
      scores['eval_bits_per_byte'] = nats / math.log(2) / num_bytes
    return scores

  return evaluate
