"""Chooses the weights that pretraining starts from (config.init_from).

They are another model's, or random with the tokens' frequencies built in.
"""

import dataclasses

import jax
import numpy as np

from gpt1_jax.config import PretrainConfig
from gpt1_jax.corpus import shards, tokenization
from gpt1_jax.errors import UserError
from gpt1_jax.model import models
from gpt1_jax.settings import ModelConfig
from gpt1_jax.train import checkpoint, program as program_lib, sharding, step
from gpt1_jax.train.checkpoint import CheckpointMeta

_BIAS = 0.3  # of the last norm: the larger, the smaller the embeddings' part


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
  """Returns the program with a new state whose logits have log frequencies.

  With weights from N(0, 0.02) alone, the first thing that a network learns is
  how frequent each token is. Having no bias at the output, it learns that by
  adding one vector to all positions, in every layer: the norms then scale down
  what tells the positions apart, and small or fast networks stop learning.
  """

  def new_state(seed: jax.Array) -> step.TrainState:
    state = program.new_state(seed)
    placed = jax.tree.map(lambda x: x.sharding, state.params)
    vocab_size = state.params['gpt']['tokens_embed'].shape[0]
    log_V = _centred_logs(train.counts(vocab_size))
    add = jax.jit(_add_frequencies, donate_argnums=0, out_shardings=placed)
    return state.replace(params=add(state.params, log_V))

  return dataclasses.replace(program, new_state=new_state)


def _centred_logs(counts_V: np.ndarray) -> np.ndarray:
  """Returns float32 log frequencies, whose mean over the text is 0."""
  shares_V = (counts_V + 1) / (counts_V + 1).sum()  # none is 0
  logs_V = np.log(shares_V)
  return (logs_V - shares_V @ logs_V).astype(np.float32)


def _add_frequencies(params: step.Params, log_V: jax.Array) -> step.Params:
  """Adds `log_V` to the logits, along the vector of ones.

  The last norm's bias has this direction, and the tied embeddings differ in it
  by `log_V`. A layer norm subtracts it, so that the blocks see none of it but
  in the first block's queries, keys and values.
  """
  gpt = params['gpt']
  norm = gpt['h']['ln_2']
  bias_LD = norm['bias'].at[-1].set(_BIAS)
  per_element_V = log_V / (_BIAS * bias_LD.shape[-1])
  embed_VD = gpt['tokens_embed'] + per_element_V[:, None]
  h = {**gpt['h'], 'ln_2': {**norm, 'bias': bias_LD}}
  return {**params, 'gpt': {**gpt, 'tokens_embed': embed_VD, 'h': h}}
