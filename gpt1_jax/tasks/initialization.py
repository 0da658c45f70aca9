"""Where a fine-tuning run starts: pretrained weights below a fresh head."""

import dataclasses
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from gpt1_jax import cli
from gpt1_jax.errors import UserError
from gpt1_jax.model import heads, models
from gpt1_jax.tasks import features as features_lib, table
from gpt1_jax.train import checkpoint, losses, sharding, step as step_lib

# What fine-tuning takes of the run it starts from; config.model has the rest.
FROM_THE_RUN = {
  'gpt': (
    'n_layer',
    'n_head',
    'n_embd',
    'n_ctx',
    'vocab_size',
    'attention',
    'remat',
    'unroll',
  ),
  'lstm': ('units', 'n_embd', 'n_ctx', 'vocab_size'),
}
ALL_LAYERS = -1
REGRESSION = ('scalar', 'classes')


@dataclasses.dataclass(frozen=True)
class HeadSettings:
  """config.head: the classifier, and the objective it shares with the LM."""

  clf_pdrop: float
  lm_coef: float
  lm_reduction: str
  regression: str

  def __post_init__(self):
    if not 0 <= self.clf_pdrop < 1 or self.lm_coef < 0:
      raise UserError(
        f'config.head has clf_pdrop {self.clf_pdrop} and lm_coef '
        f'{self.lm_coef}: wanted are a rate in [0, 1) and no negative weight'
      )
    for name, allowed in (
      ('lm_reduction', losses.LM_REDUCTIONS),
      ('regression', REGRESSION),
    ):
      if getattr(self, name) not in allowed:
        raise UserError(
          f'config.head.{name} is {getattr(self, name)!r}: one of '
          + ', '.join(allowed)
        )


@dataclasses.dataclass(frozen=True)
class TransferSettings:
  """config.transfer: how much of the pretrained model is taken."""

  layers: int


def new_head(task: table.Task, settings: HeadSettings) -> heads.Head:
  """The head of a task.

  Raises:
    UserError: config.head.regression does not fit the task.
  """
  num_outputs = task.num_outputs
  if task.regression and settings.regression == 'classes':
    num_outputs = len(task.whole_numbers)
  return heads.Head(task.kind, num_outputs, settings.clf_pdrop)


def new_state(
  model: models.Model, head: heads.Head, optimizer: Any, seed: jax.Array | int
) -> step_lib.TrainState:
  """Fresh parameters of model, specials and head, and optimiser state."""
  key = jax.random.key(seed)
  body = model.init(key, jnp.zeros((1, 8), jnp.int32), dropout_key=None)
  state_BCD = jnp.zeros((1, 1, model.config.n_embd), jnp.float32)
  top = head.init(
    jax.random.fold_in(key, 1),
    state_BCD,
    dropout_key=None,
    example_ids_B=jnp.zeros(1, jnp.uint32),
  )
  params = {'gpt': body['params'], 'head': top['params']}
  return step_lib.TrainState(
    jnp.zeros([], jnp.int32), params, optimizer.init(params)
  )


def transfer(pretrained: Any, params: Any, layers: int) -> Any:
  """`params` with the pretrained weights; specials and head stay fresh.

  Args:
    pretrained: of a run, numpy; its embedding has the rows of text.
    params: fresh, of the same shape but for the special rows.
    layers: blocks that are taken, from below; those above stay fresh. The
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


def source(config: dict[str, Any]) -> tuple[str, Any, models.Config]:
  """The run that gives shape and tokenizer, its weights or None, the model.

  Raises:
    UserError: no run is named, it cannot be read, or is of another kind.
  """
  if config['init_from'] is None:
    raise UserError(
      'config.init_from is not set: name a pretraining run, or start from '
      'scratch with the word `scratch` (configs/finetune.py:TASK,scratch) and '
      '--config.like=RUN'
    )
  scratch = config['init_from'] == 'none'
  source = config['like'] if scratch else config['init_from']
  if not source:
    raise UserError(
      'config.init_from is none: name the run whose shape and tokenizer to '
      'take with --config.like=RUN'
    )
  params, meta, _ = checkpoint.read(source)
  shape = models.read(meta['model'])
  model_class = models.config_class(config['model'])
  if config['model']['kind'] != shape.kind:
    words = 'TASK,lstm' if shape.kind == 'lstm' else 'TASK'
    raise UserError(
      f'{source}: of kind {shape.kind}, config.model.kind is '
      f'{config["model"]["kind"]}; take configs/finetune.py:{words}'
    )
  model_config = cli.fill(
    'model',
    model_class,
    config['model'],
    n_special=features_lib.NUM_SPECIALS,
    **{name: getattr(shape, name) for name in FROM_THE_RUN[shape.kind]},
  )
  return source, None if scratch else params, model_config


def num_layers(
  settings: TransferSettings, run: str, model: models.Config, scratch: bool
) -> int | None:
  """Layers that are transferred; None from scratch.

  Raises:
    UserError: the run has not as many, or there is nothing to transfer.
  """
  layers = settings.layers
  if scratch:
    if layers != ALL_LAYERS:
      raise UserError(
        f'config.transfer.layers is {layers}, but from scratch nothing is '
        f'transferred: leave it at {ALL_LAYERS}'
      )
    return None
  if layers == ALL_LAYERS:
    return model.n_layer
  # An LSTM's one layer is all there is above its embedding.
  least = 0 if model.kind == 'gpt' else model.n_layer
  if not least <= layers <= model.n_layer:
    raise UserError(
      f'config.transfer.layers is {layers}, and {run} has {model.n_layer}: '
      f'from {least} to {model.n_layer}, or {ALL_LAYERS} for all'
    )
  return layers
