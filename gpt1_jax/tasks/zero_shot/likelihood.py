"""Computes the log-probability of the scored tokens of candidates.

One jitted function serves all tasks and checkpoints. It is compiled once for
each width of a batch.
"""

import functools
from collections.abc import Callable, Sequence
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from gpt1_jax.errors import UserError
from gpt1_jax.model import models
from gpt1_jax.tasks.batches import Batches
from gpt1_jax.tasks.features import Features
from gpt1_jax.tasks.predictions import Advance, gather
from gpt1_jax.tasks.zero_shot.questions import Candidate
from gpt1_jax.train import losses, sharding

# Widths T that may be compiled; a batch takes the smallest that holds it. Most
# sentences of CoLA and SST-2 are below 32 tokens, most of RACE near n_ctx.
WIDTHS = (16, 24, 32, 48, 64, 96, 128, 192, 256, 384, 512)


def lay_out(candidates: Sequence[Candidate], n_ctx: int) -> Features:
  """Converts candidates to examples whose targets are the scored tokens."""
  return Features(
    tokens=np.concatenate([c.tokens for c in candidates]).astype(np.int32),
    ends=np.cumsum([len(c.tokens) for c in candidates]),
    labels=None,
    num_choices=1,
    n_ctx=n_ctx,
    num_cut=0,
    first_targets=np.array([c.first_scored for c in candidates]),
  )


def score_fn(
  model: models.Model, mesh: jax.sharding.Mesh
) -> Callable[[Any, Batches, Advance], np.ndarray]:
  """Returns a function that sums log p over the scored tokens.

  It takes the parameters of the model, batches of `lay_out`, and a callback
  that receives the number of candidates and tokens of each batch. It returns
  float64 [N] in nats, summed in float32 on the device, 0 where nothing is
  scored, and raises `UserError` if a sum is not finite.
  """

  @functools.partial(jax.jit, out_shardings=sharding.replicated(mesh))
  def forward(
    params: Any, batch: dict[str, jax.Array]
  ) -> tuple[jax.Array, jax.Array]:
    tokens_BT = batch['tokens'][:, 0]
    out: Any = model.apply({'params': params}, tokens_BT, dropout_key=None)
    h_BTD, embed_VD = out
    log_probs_BT = losses.token_log_probs(h_BTD, embed_VD, tokens_BT)
    scored_BT = log_probs_BT * batch['lm_weights'][:, 0]
    return jnp.sum(scored_BT, axis=1, keepdims=True), batch['index']

  def score(params: Any, batches: Batches, advance: Advance) -> np.ndarray:
    params = sharding.replicate(params, mesh)
    sums_N1 = gather(functools.partial(forward, params), batches, mesh, advance)
    if not np.isfinite(sums_N1).all():
      raise UserError(
        'log-probabilities are not finite: this checkpoint has diverged; '
        'choose an earlier one with --checkpoint'
      )
    return sums_N1[:, 0].astype(np.float64)

  return score
