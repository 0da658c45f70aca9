"""Samples drawn while a model is trained follow its probabilities."""

import jax
import numpy as np
import pytest

from gpt1_jax.model import models
from gpt1_jax.train import samples, sharding
from tests.support import networks, reference
from tests.support.meshes import make_mesh

CONFIG = networks.GPT_CONFIG
PROMPT = [5, 3, 8, 1]


@pytest.mark.parametrize('mesh', [(1, 1, 1), (2, 2, 2)])
def test_a_sample_continues_with_the_likely_tokens(mesh):
  """With embeddings this large, one token has all the probability."""
  params = networks.gpt_params(CONFIG)
  params = {**params, 'tokens_embed': 100 * params['tokens_embed']}
  mesh = make_mesh(*mesh)
  with sharding.use(mesh):
    draw = samples.sampler(models.new(CONFIG), mesh, PROMPT, 6)
    found = draw({'gpt': params})
  exact = reference.float64(jax.device_get(params))
  h_BTD, embed_VD = reference.forward(exact, np.array([found]))
  best_T = (h_BTD @ embed_VD[: CONFIG.vocab_size].T)[0].argmax(-1)
  assert found[:4] == PROMPT
  assert found[4:] == best_T[3:-1].tolist()
  assert len(found) == 10


def test_a_full_context_ends_the_sample():
  mesh = make_mesh(1, 1, 1)
  with sharding.use(mesh):
    draw = samples.sampler(models.new(CONFIG), mesh, [1] * 99, 1000)
    found = draw({'gpt': networks.gpt_params(CONFIG)})
  assert len(found) == CONFIG.n_ctx
  assert found[: CONFIG.n_ctx // 2] == [1] * (CONFIG.n_ctx // 2)
