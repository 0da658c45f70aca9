"""lm-eval's local-completions reads log-likelihoods off the server, unchanged.

Skips without the peers.
"""

import os
import warnings

import pytest

import gpt1_jax
from tests.support import commands

pytestmark = [
  pytest.mark.peers,
  pytest.mark.slow,
  # The harness and its dependencies warn.
  pytest.mark.filterwarnings('ignore'),
]
os.environ['HF_HUB_OFFLINE'] = '1'
with warnings.catch_warnings():  # about its own code
  warnings.simplefilter('ignore')
  clients = pytest.importorskip(
    'lm_eval.models.openai_completions',
    reason="needs the peers: pip install -e '.[test,serve,peers]'",
  )
  from lm_eval.api.instance import Instance


def test_local_completions(pretrained):
  pairs = [('the object is', ' good'), ('a class', ' of the method')]
  with commands.serving(pretrained) as url:
    harness = clients.LocalCompletionsAPI(
      base_url=f'{url}/v1/completions',
      model='pretrained',
      max_length=64,
      batch_size=2,
    )
    assert harness.tokenizer_backend == 'remote'
    found = harness.loglikelihood(
      [Instance('loglikelihood', {}, pair, i) for i, pair in enumerate(pairs)]
    )
  run = gpt1_jax.load(pretrained)
  for (context, continuation), (log_likelihood, _) in zip(
    pairs, found, strict=True
  ):
    ids, start = run.encode(context + continuation), len(run.encode(context))
    want = run.predictions([ids], 1)[0].log_probs_BT[start:].sum()
    assert log_likelihood == pytest.approx(float(want), abs=1e-4)
