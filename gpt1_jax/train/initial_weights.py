"""Starts pretraining from the weights of another model (config.init_from)."""

import dataclasses

import jax

from gpt1_jax.config import PretrainConfig
from gpt1_jax.corpus import tokenization
from gpt1_jax.errors import UserError
from gpt1_jax.model import models
from gpt1_jax.settings import ModelConfig
from gpt1_jax.train import checkpoint, program as program_lib, sharding, step
from gpt1_jax.train.checkpoint import CheckpointMeta


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
