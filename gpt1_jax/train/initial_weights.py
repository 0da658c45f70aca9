"""Builds the weights that pretraining starts from (config.init_from).

They are another model's, or random ones with the tokens' log frequencies added.
"""

import dataclasses

import jax
import numpy as np

from gpt1_jax.config import PretrainConfig
from gpt1_jax.corpus import shards, tokenization
from gpt1_jax.errors import UserError
from gpt1_jax.model import models
from gpt1_jax.settings import ModelConfig
from gpt1_jax.train import (
  checkpoint,
  hosts,
  program as program_lib,
  sharding,
  step,
)
from gpt1_jax.train.checkpoint import CheckpointMeta

# Of the last norm, all elements: the larger, the less the embeddings change.
_BIAS = 0.3


def check(
  config: PretrainConfig,
  model: ModelConfig,
  tokenizer: tokenization.Tokenizer,
  meta: CheckpointMeta,
) -> None:
  """Checks that initial weights have the shape and tokenizer of this run."""
  source = config.init_from
  if meta.tokenizer_fingerprint != tokenizer.fingerprint:
    raise UserError(
      f'config.init_from={source}: its tokenizer is not that of '
      f'{config.data.path}; prepare the corpus with --tokenizer={source} '
      "(openai:DIR for OpenAI's and Hugging Face's folders)"
    )
  models.check_shape(f'config.init_from={source}', meta.model, model)


def use(
  program: program_lib.Program, initial: checkpoint.Checkpoint
) -> program_lib.Program:
  """Returns the program with a new state that contains the initial weights.

  Drops the embeddings of special tokens, which pretraining does not have.
  """
  gpt = dict(initial.params['gpt'])
  gpt['tokens_embed'] = gpt['tokens_embed'][: initial.meta.model.vocab_size]

  def new_state(seed: jax.Array) -> step.TrainState:
    state = program.new_state(seed)
    return state.replace(params=sharding.like({'gpt': gpt}, state.params))

  return dataclasses.replace(program, new_state=new_state)


def add_frequencies(
  program: program_lib.Program, train: shards.Tokens
) -> program_lib.Program:
  """Returns the program with a new state that knows the tokens' frequencies.

  Weights from N(0, 0.02) predict all tokens alike, so training first learns how
  frequent each one is. The output has no bias: the network learns a vector that
  is the same at all positions, in every block. The layer norms then shrink what
  differs between positions, and a small network, or one with a high rate, may
  stop learning there (docs/results/record.md).
  """

  def new_state(seed: jax.Array) -> step.TrainState:
    hosts.say(f'counting {train.num_tokens:,} tokens (config.init_from)')
    state = program.new_state(seed)
    vocab_size = state.params['gpt']['tokens_embed'].shape[0]
    log_V = sharding.put(
      _centred_logs(train.counts(vocab_size)),
      sharding.replicated(program.mesh),
    )
    placed = jax.tree.map(lambda x: x.sharding, state.params)
    add = jax.jit(_add, donate_argnums=0, out_shardings=placed)
    return state.replace(params=add(state.params, log_V))

  return dataclasses.replace(program, new_state=new_state)


def _centred_logs(counts_V: np.ndarray) -> np.ndarray:
  """Returns float32 log frequencies, shifted to a mean of 0 over the text."""
  shares_V = (counts_V + 1) / (counts_V + 1).sum()  # log(0) is not finite
  logs_V = np.log(shares_V)
  return (logs_V - shares_V @ logs_V).astype(np.float32)


def _add(params: step.Params, log_V: jax.Array) -> step.Params:
  """Adds `log_V` to the logits of random weights.

  All elements of the last norm's bias become _BIAS, and all elements of a
  token's embedding gain log_V / (_BIAS * D): the product of the two is log_V.
  (The bias times the random embedding adds noise, 0.1 at D = 384.) A layer norm
  removes a constant from its input: without embedding dropout, which makes the
  constant uneven, only the first block's queries, keys and values see it.
  """
  gpt = params['gpt']
  norm = gpt['h']['ln_2']
  bias_LD = norm['bias'].at[-1].set(_BIAS)
  per_element_V = log_V / (_BIAS * bias_LD.shape[-1])
  embed_VD = gpt['tokens_embed'] + per_element_V[:, None]
  h = {**gpt['h'], 'ln_2': {**norm, 'bias': bias_LD}}
  return {**params, 'gpt': {**gpt, 'tokens_embed': embed_VD, 'h': h}}
