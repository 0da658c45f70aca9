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


@pytest.mark.parametrize('counts', [{'words': 100, 'bytes': 700}, {'words': 0}])
def test_perplexities_equal_numpy(counts):
  """A split without words or bytes does not divide by zero or overflow."""
  words, num_bytes = counts['words'], counts.get('bytes')
  mesh, params = make_mesh(2, 1, 1), networks.gpt_params(networks.GPT_CONFIG)
  with sharding.use(mesh):
    evaluate = perplexity.perplexity_fn(
      gpt.GPT(networks.GPT_CONFIG), mesh, Split(), counts
    )
    found = evaluate({'gpt': params})
  tokens, weights = updates.BATCH['tokens'], updates.BATCH['lm_weights'][:, 1:]
  exact = reference.float64(jax.device_get(params))
  nll = reference.lm_nll(*reference.forward(exact, tokens), tokens)
  nats, count = (nll * weights).sum(), weights.sum()
  bits = {'eval_bits_per_byte': nats / np.log(2) / num_bytes} if words else {}
  assert found == pytest.approx(
    bits
    | {
      'eval_loss': nats / count,
      'eval_perplexity': np.exp(nats / count),
      'eval_word_perplexity': math.exp(min(nats / max(words, 1), 700)),
    },
    rel=1e-4,  # of exp(nats / words): the error of the loss times nats / words
  )
  assert found['eval_loss'] == pytest.approx(nats / count, rel=1e-6)
