"""Builds the weights that pretraining starts from (config.init_from).

They are another model's, or random ones that know counts of the text.
"""

import dataclasses
import math

import jax
import jax.numpy as jnp
import numpy as np

from gpt1_jax.config import NEIGHBOURS, PretrainConfig
from gpt1_jax.corpus import neighbours, shards, tokenization
from gpt1_jax.errors import UserError
from gpt1_jax.model import linear, models
from gpt1_jax.settings import ModelConfig
from gpt1_jax.train import (
  checkpoint,
  hosts,
  program as program_lib,
  pulse,
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


def count(
  program: program_lib.Program, train: shards.Tokens, kind: str
) -> program_lib.Program:
  """Returns the program with a new state that knows counts of the text.

  Weights from N(0, 0.02) predict all tokens alike, so training first learns how
  frequent each one is. The output has no bias: the network learns a vector that
  is the same at all positions, in every block. The layer norms then shrink what
  differs between positions, and a small network, or one with a high rate, may
  stop learning there (docs/results/record.md).

  Args:
    kind: one of config.FROM_TEXT: 'frequencies' adds the log frequencies;
      'neighbours' also replaces the random embeddings, which say nothing of
      what a token means, by those of corpus/neighbours.py where they are known.
  """
  vocab_size, width = program.state.params['gpt']['tokens_embed'].shape

  def new_state(seed: jax.Array) -> step.TrainState:
    what = ' and their neighbours' if kind == NEIGHBOURS else ''
    hosts.say(f'counting {train.num_tokens:,} tokens{what} (config.init_from)')
    counts = [_centred_logs(train.counts(vocab_size))]
    if kind == NEIGHBOURS:
      rows_VD = neighbours.embed(train, vocab_size, width, pulse.tick)
      counts.append(hosts.from_first(rows_VD))  # each host rounds its own
    state = program.new_state(seed)
    everywhere = sharding.replicated(program.mesh)
    placed = jax.tree.map(lambda x: x.sharding, state.params)
    add = jax.jit(_add, donate_argnums=0, out_shardings=placed)
    arrays = [sharding.put(x, everywhere) for x in counts]
    return state.replace(params=add(state.params, seed, *arrays))

  return dataclasses.replace(program, new_state=new_state)


def _centred_logs(counts_V: np.ndarray) -> np.ndarray:
  """Returns float32 log frequencies, shifted to a mean of 0 over the text."""
  shares_V = (counts_V + 1) / (counts_V + 1).sum()  # log(0) is not finite
  logs_V = np.log(shares_V)
  return (logs_V - shares_V @ logs_V).astype(np.float32)


def _add(
  params: step.Params,
  seed: jax.Array,
  log_V: jax.Array,
  rows_VD: jax.Array | None = None,
) -> step.Params:
  """Adds `log_V` to the logits of random weights.

  All elements of the last norm's bias become _BIAS, and all elements of a
  token's embedding gain log_V / (_BIAS * D): the product of the two is log_V.
  (The bias times the random embedding adds noise, 0.1 at D = 384.) A layer norm
  removes a constant from its input: without embedding dropout, which makes the
  constant uneven, only the first block's queries, keys and values see it.

  Args:
    rows_VD: embeddings of length 1 that replace the random ones, in a random
      basis, with the same mean square; 0 where there is none.
  """
  gpt = params['gpt']
  embed_VD = gpt['tokens_embed']
  if rows_VD is not None:
    D = rows_VD.shape[-1]
    never = step.update_key(seed, jnp.uint32(2**32 - 1))  # no update has it
    key = jax.random.fold_in(jax.random.wrap_key_data(never), D)
    basis_DD = jax.random.orthogonal(key, D)
    known_VD = linear.STDDEV * math.sqrt(D) * rows_VD @ basis_DD
    embed_VD = jnp.where(rows_VD.any(-1, keepdims=True), known_VD, embed_VD)
  norm = gpt['h']['ln_2']
  bias_LD = norm['bias'].at[-1].set(_BIAS)
  per_element_V = log_V / (_BIAS * bias_LD.shape[-1])
  embed_VD = embed_VD + per_element_V[:, None]
  h = {**gpt['h'], 'ln_2': {**norm, 'bias': bias_LD}}
  return {**params, 'gpt': {**gpt, 'tokens_embed': embed_VD, 'h': h}}
