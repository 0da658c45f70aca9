"""Initialises fine-tuning: pretrained weights and a fresh head."""

import dataclasses
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from gpt1_jax.config import FinetuneConfig
from gpt1_jax.corpus import tokenization, vocabulary
from gpt1_jax.errors import UserError
from gpt1_jax.model import heads, models
from gpt1_jax.settings import GPTConfig, ModelConfig
from gpt1_jax.task_settings import HeadSettings
from gpt1_jax.tasks.definition import Task
from gpt1_jax.train import belonging, checkpoint, sharding

ALL_LAYERS = -1
SCRATCH = 'none'


@dataclasses.dataclass(frozen=True)
class Source:
  """The run that a fine-tuning run starts from.

  Attributes:
    model: the network to train: the run's shape, with rows for the specials.
    params: the pretrained weights, numpy; None from scratch.
    layers: blocks that are transferred; None from scratch.
  """

  run: str
  model: ModelConfig
  params: Any
  layers: int | None
  tokenizer: tokenization.Tokenizer


def read_source(config: FinetuneConfig) -> Source:
  """Reads the run that config.init_from, or config.like, names.

  Raises:
    UserError: it cannot be read, has the wrong kind of model, or fewer layers
      than config.transfer.layers.
  """
  scratch = config.init_from == SCRATCH
  run, step = checkpoint.split_step(
    config.like if scratch else config.init_from
  )
  found = checkpoint.read(run, step)
  shape = found.meta.model
  if config.model.kind != shape.kind:
    words = 'TASK,lstm' if shape.kind == 'lstm' else 'TASK'
    raise UserError(
      f'{run}: its model is a {shape.kind}, config.model.kind is '
      f'{config.model.kind}; use configs/finetune.py:{words}'
    )
  model = dataclasses.replace(
    shape,
    **dataclasses.asdict(config.model),
    n_special=vocabulary.NUM_SPECIALS,
  )
  layers = _num_layers(config.transfer.layers, run, model, scratch)
  return Source(
    run,
    model,
    None if scratch else found.params,
    layers,
    belonging.tokenizer(run, found.meta),
  )


def _num_layers(
  wanted: int, run: str, model: ModelConfig, scratch: bool
) -> int | None:
  """Returns how many layers to transfer; None from scratch."""
  if scratch:
    if wanted != ALL_LAYERS:
      raise UserError(
        f'config.transfer.layers is {wanted}, but nothing is transferred from '
        f'scratch: leave it at {ALL_LAYERS}'
      )
    return None
  if wanted == ALL_LAYERS:
    return model.n_layer
  # An LSTM has a single layer.
  least = 0 if isinstance(model, GPTConfig) else model.n_layer
  if not least <= wanted <= model.n_layer:
    raise UserError(
      f'config.transfer.layers is {wanted}, and {run} has {model.n_layer}: '
      f'give {least} to {model.n_layer}, or {ALL_LAYERS} for all'
    )
  return wanted


def new_head(task: Task, settings: HeadSettings) -> heads.Head:
  """Returns the classifier of a task.

  Raises:
    UserError: config.head.regression does not fit the task.
  """
  num_outputs = task.num_outputs
  if task.regression and settings.regression == 'classes':
    num_outputs = len(task.whole_numbers)
  return heads.Head(task.kind, num_outputs, settings.clf_pdrop)


def init_params(
  model: models.Model, head: heads.Head, key: jax.Array
) -> dict[str, Any]:
  """Returns fresh parameters of the model, its specials and the head."""
  body = model.init(key, jnp.zeros((1, 8), jnp.int32), dropout_key=None)
  top = head.init(
    jax.random.fold_in(key, 1),
    jnp.zeros((1, 1, model.config.n_embd), jnp.float32),
    dropout_key=None,
    example_ids_B=jnp.zeros(1, jnp.uint32),
  )
  return {'gpt': body['params'], 'head': top['params']}


def transfer(pretrained: Any, params: Any, layers: int) -> Any:
  """Returns `params` with pretrained weights; specials and head stay fresh.

  Args:
    pretrained: weights of a run, numpy; its embedding has the rows of text.
    params: fresh, with rows for the specials as well.
    layers: number of blocks to take, lowest first; others stay fresh. The
      embeddings are always taken (P §5, Figure 2 left).
  """
  body = dict(pretrained['gpt'])
  fresh = params['gpt']
  if 'h' in body and layers < len(body['h']['ln_1']['bias']):  # stacked blocks
    body['h'] = jax.tree.map(
      lambda old, new: np.concatenate([old[:layers], new[layers:]]),
      body['h'],
      sharding.gather(fresh['h']),
    )
  rows = body['tokens_embed'].shape[0]
  specials = sharding.gather(fresh['tokens_embed'])[rows:]
  body['tokens_embed'] = np.concatenate([body['tokens_embed'], specials])
  return {**params, 'gpt': sharding.like(body, params['gpt'])}
