"""Computes the log-probability of the scored tokens of candidates.

One jitted function serves all tasks and checkpoints. It is compiled once for
each width of a batch.
"""

import functools
from collections.abc import Callable, Iterator, Sequence
from typing import Any, TypedDict

import jax
import jax.numpy as jnp
import numpy as np

from gpt1_jax.errors import UserError
from gpt1_jax.model import models
from gpt1_jax.tasks.batches import padded_lengths
from gpt1_jax.tasks.zero_shot import questions
from gpt1_jax.train import losses, pulse, sharding

# Widths T that may be compiled; a batch takes the smallest that holds it. Most
# sentences of CoLA and SST-2 are below 32 tokens, most of RACE near n_ctx.
WIDTHS = (16, 24, 32, 48, 64, 96, 128, 192, 256, 384, 512)


class CandidateBatch(TypedDict):
  """The rows of a batch that belong to this host.

  Keys:
    tokens: int32 [B, T], zeros after each candidate.
    lm_weights: float32 [B, T], 1 where a token is scored.
    index: int32 [B], number of the candidate, -1 for padding.
  """

  tokens: np.ndarray
  lm_weights: np.ndarray
  index: np.ndarray


class CandidateBatches:
  """Batches of candidates of similar length, shortest first."""

  def __init__(
    self,
    candidates: Sequence[questions.Candidate],
    n_ctx: int,
    batch_size: int,
    host_rows: Sequence[int],
    widths: Sequence[int] = WIDTHS,
  ):
    """Plans the batches.

    Args:
      candidates: what to score.
      n_ctx: maximum length of a candidate, always one of the widths.
      batch_size: B over all hosts.
      host_rows: rows of a batch that this host lays out.
      widths: lengths that batches are padded to.
    """
    self._candidates, self._host_rows = candidates, list(host_rows)
    lengths_N = [len(candidate.tokens) for candidate in candidates]
    self._width_N = padded_lengths(lengths_N, widths, n_ctx)
    order = np.argsort(self._width_N, kind='stable')
    order = np.pad(order, (0, -len(order) % batch_size), constant_values=-1)
    self._order = order.reshape(-1, batch_size)

  def __len__(self) -> int:
    return len(self._order)

  @property
  def num_candidates(self) -> int:
    return len(self._candidates)

  def __iter__(self) -> Iterator[CandidateBatch]:
    for order_B in self._order:
      width = self._width_N[order_B[order_B >= 0]].max()
      index_B = order_B[self._host_rows].astype(np.int32)
      tokens_BT = np.zeros((len(index_B), width), np.int32)
      weights_BT = np.zeros(tokens_BT.shape, np.float32)
      for row, index in enumerate(index_B):
        if index >= 0:
          candidate = self._candidates[index]
          end = len(candidate.tokens)
          tokens_BT[row, :end] = candidate.tokens
          weights_BT[row, candidate.first_scored : end] = 1
      yield {'tokens': tokens_BT, 'lm_weights': weights_BT, 'index': index_B}


ScoreFn = Callable[
  [Any, CandidateBatches, Callable[[int, int], None]], np.ndarray
]


def score_fn(model: models.Model, mesh: jax.sharding.Mesh) -> ScoreFn:
  """Returns a function that sums log p over the scored tokens.

  It takes the parameters of the model, the batches, and a callback that
  receives the number of candidates and tokens of each batch. It returns float64
  [N] in nats, summed in float32 on the device, 0 where nothing is scored, and
  raises `UserError` if a sum is not finite.
  """
  replicated = sharding.replicated(mesh)

  @functools.partial(jax.jit, out_shardings=replicated)
  def forward(
    params: Any, batch: dict[str, jax.Array]
  ) -> tuple[jax.Array, jax.Array]:
    tokens_BT = batch['tokens']
    out: Any = model.apply({'params': params}, tokens_BT, dropout_key=None)
    h_BTD, embed_VD = out
    log_probs_BT = losses.token_log_probs(h_BTD, embed_VD, tokens_BT)
    return jnp.sum(log_probs_BT * batch['lm_weights'], axis=1), batch['index']

  def score(
    params: Any,
    batches: CandidateBatches,
    progress: Callable[[int, int], None],
  ) -> np.ndarray:
    params = jax.tree.map(lambda x: sharding.put(x, replicated), params)
    sums_N = np.full(batches.num_candidates, np.nan)

    def read(result: tuple[jax.Array, jax.Array], width: int) -> None:
      sums_B, index_B = jax.device_get(result)
      pulse.tick('evaluating')
      real = index_B >= 0
      sums_N[index_B[real]] = sums_B[real]
      progress(int(real.sum()), int(real.sum()) * width)

    previous = None  # read one batch late, so that the device does not stall
    for batch in batches:
      result = forward(params, sharding.put_batch(batch, mesh))
      if previous:
        read(*previous)
      previous = result, batch['tokens'].shape[1]
    if previous:
      read(*previous)
    if not np.isfinite(sums_N).all():
      raise UserError(
        'log-probabilities are not finite: this checkpoint has diverged; '
        'choose an earlier one with --checkpoint'
      )
    return sums_N

  return score
