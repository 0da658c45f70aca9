"""The perplexity of a split equals numpy's, on a mesh."""

import math

import jax
import numpy as np
import pytest

from gpt1_jax.model import gpt
from gpt1_jax.train import perplexity, sharding
from tests.support import networks, reference, updates
from tests.support.meshes import make_mesh


class Split:
  """Covers updates.BATCH in two batches."""

  steps_per_epoch = 2

  def batch(self, step):
    return {name: x[8 * step :][:8] for name, x in updates.BATCH.items()}


@pytest.mark.parametrize('words', [100, 0])
def test_perplexities_equal_numpy(words):
  """A split without words does not divide by zero or overflow."""
  mesh, params = make_mesh(2, 1, 1), networks.gpt_params(networks.GPT_CONFIG)
  with sharding.use(mesh):
    evaluate = perplexity.perplexity_fn(
      gpt.GPT(networks.GPT_CONFIG), mesh, Split(), words
    )
    found = evaluate({'gpt': params})
  tokens, weights = updates.BATCH['tokens'], updates.BATCH['lm_weights'][:, 1:]
  exact = reference.float64(jax.device_get(params))
  nll = reference.lm_nll(*reference.forward(exact, tokens), tokens)
  nats, count = (nll * weights).sum(), weights.sum()
  assert found == pytest.approx(
    {
      'eval_loss': nats / count,
      'eval_perplexity': np.exp(nats / count),
      'eval_word_perplexity': math.exp(min(nats / max(words, 1), 700)),
    },
    rel=1e-4,  # of exp(nats / words): the error of the loss times nats / words
  )
  assert found['eval_loss'] == pytest.approx(nats / count, rel=1e-6)
