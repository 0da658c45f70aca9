"""Parameters and sequences → the log-probability of what is scored in each.

One jitted function makes every figure of the suite. It is compiled once for
each width of a batch, for all tasks and all checkpoints.
"""

import functools
from collections.abc import Callable, Iterator, Sequence
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from gpt1_jax.errors import UserError
from gpt1_jax.model import models
from gpt1_jax.tasks import batches as batches_lib, features as features_lib
from gpt1_jax.train import losses, sharding

# Widths that may be compiled; a batch takes the least that holds it. Most
# sentences of CoLA and SST-2 are below 32 tokens, most of RACE near n_ctx.
WIDTHS = (16, 24, 32, 48, 64, 96, 128, 192, 256, 384, 512)


class Sequences:
  """All sequences in batches of like length; this host's rows of them."""

  def __init__(
    self,
    packed: features_lib.Features,
    firsts: np.ndarray,
    batch_size: int,
    rows: Sequence[int],
  ):
    """Plans the batches.

    Args:
      packed: of `zero_shot.pack`.
      firsts: int64 [N], where the scored tokens of each begin.
      batch_size: over all hosts.
      rows: of each batch, which are laid out here.
    """
    self._firsts = firsts
    self._batches = batches_lib.Batches(
      packed, batches_lib.BatchSettings(batch_size, lengths=WIDTHS), rows
    )
    self.num_sequences = packed.num_examples
    self.num_batches = self._batches.steps_per_epoch
    lengths = np.diff(packed.ends, prepend=0)
    self.counts = np.maximum(lengths - firsts, 0)  # scored tokens of each

  def __iter__(self) -> Iterator[dict[str, np.ndarray]]:
    """Yields tokens int32 [B, T], weights float32 [B, T], index int32 [B].

    Weights are 1 where a token is scored; the index is -1 for padding.
    """
    for step in range(self.num_batches):
      batch = self._batches.batch(step)
      tokens_BT, index_B = batch['tokens'][:, 0], batch['index']
      first_B1 = self._firsts[index_B][:, None]
      scored_BT = np.arange(tokens_BT.shape[1]) >= first_B1
      weights_BT = batch['lm_weights'][:, 0] * scored_BT
      yield {
        'tokens': tokens_BT,
        'lm_weights': weights_BT.astype(np.float32),
        'index': index_B,
      }


Score = Callable[[Any, Sequences, Callable[[int, int], None]], np.ndarray]


def score_fn(model: models.Model, mesh: jax.sharding.Mesh) -> Score:
  """(parameters of the model, sequences, progress) → float64 [N].

  The sum of log p over the scored tokens of each sequence, in nats, summed in
  float32 on the device; 0 where nothing is scored. `progress` is told of each
  batch how many sequences and tokens of them it held.

  Raises (when called):
    UserError: a sum is not finite.
  """
  replicated = sharding.replicated(mesh)

  @functools.partial(jax.jit, out_shardings=replicated)
  def forward(params, batch):
    tokens_BT = batch['tokens']
    h_BTD, embed_VD = model.apply(
      {'params': params}, tokens_BT, dropout_key=None
    )
    log_probs_BT = losses.token_log_probs(h_BTD, embed_VD, tokens_BT)
    return jnp.sum(log_probs_BT * batch['lm_weights'], axis=1), batch['index']

  def score(params, sequences, progress):
    params = jax.tree.map(lambda x: sharding.put(x, replicated), params)
    out = np.full(sequences.num_sequences, np.nan)
    waiting = None  # read one batch late, so that the device does not stall

    def read(result, tokens):
      sums_B, index_B = jax.device_get(result)
      real = index_B >= 0
      out[index_B[real]] = sums_B[real]
      progress(int(real.sum()), tokens)

    for batch in sequences:
      result = forward(params, sharding.put_batch(batch, mesh))
      if waiting:
        read(*waiting)
      tokens = int((batch['index'] >= 0).sum() * batch['tokens'].shape[1])
      waiting = result, tokens * jax.process_count()
    read(*waiting)
    if not np.isfinite(out).all():
      raise UserError(
        'log-probabilities are not finite: this checkpoint has diverged; take '
        'an earlier one with --checkpoint'
      )
    return out

  return score
