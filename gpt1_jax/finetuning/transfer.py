"""Where a fine-tuning run starts: pretrained weights below a fresh head."""

import dataclasses
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from gpt1_jax import command
from gpt1_jax.data import features as features_lib, tasks
from gpt1_jax.errors import UserError
from gpt1_jax.model import gpt, heads
from gpt1_jax.train import checkpoint, losses, sharding, step as step_lib

# What fine-tuning takes of the run it starts from; config.model has the rest.
FROM_THE_RUN = (
  'n_layer',
  'n_head',
  'n_embd',
  'n_ctx',
  'vocab_size',
  'remat',
  'unroll',
)
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


def new_head(task: tasks.Task, settings: HeadSettings) -> heads.Head:
  """The head of a task.

  Raises:
    UserError: config.head.regression does not fit the task.
  """
  num_outputs = task.num_outputs
  if task.regression and settings.regression == 'classes':
    num_outputs = len(task.whole_numbers)
  return heads.Head(task.kind, num_outputs, settings.clf_pdrop)


def new_state(
  model: gpt.GPT, head: heads.Head, optimizer: Any, seed: jax.Array | int
) -> step_lib.TrainState:
  """Fresh parameters of model, specials and head, and optimiser state."""
  key = jax.random.key(seed)
  body = model.init(key, jnp.zeros((1, 8), jnp.int32), seed_2=None)
  state_BCD = jnp.zeros((1, 1, model.config.n_embd), jnp.float32)
  top = head.init(
    jax.random.fold_in(key, 1),
    state_BCD,
    seed_2=None,
    rows_B=jnp.zeros(1, jnp.uint32),
  )
  params = {'gpt': body['params'], 'head': top['params']}
  return step_lib.TrainState(
    jnp.zeros([], jnp.int32), params, optimizer.init(params)
  )


def transfer(pretrained: Any, params: Any) -> Any:
  """`params` with the pretrained weights; specials and head stay fresh.

  Args:
    pretrained: of a run, numpy; its embedding has the rows of text.
    params: fresh, of the same shape but for the special rows.
  """
  body = dict(pretrained['gpt'])
  embed_VD, rows = params['gpt']['tokens_embed'], body['tokens_embed'].shape[0]
  whole = sharding.replicated(embed_VD.sharding.mesh)
  fresh = jax.jit(lambda x: x[rows:], out_shardings=whole)(embed_VD)
  body['tokens_embed'] = np.concatenate(
    [body['tokens_embed'], jax.device_get(fresh)]
  )
  return {**params, 'gpt': sharding.like(body, params['gpt'])}


def source(config: dict[str, Any]) -> tuple[str, Any, gpt.GPTConfig]:
  """The run that gives shape and tokenizer, its weights or None, the model."""
  scratch = config['init_from'] == 'none'
  source = config['like'] if scratch else config['init_from']
  if not source:
    raise UserError(
      'config.init_from is none: name the run whose shape and tokenizer to '
      'take with --config.like=RUN'
    )
  params, meta, _ = checkpoint.read(source)
  model_config = command.fill(
    'model',
    gpt.GPTConfig,
    config['model'],
    n_special=features_lib.NUM_SPECIALS,
    **{name: meta['model'][name] for name in FROM_THE_RUN},
  )
  return source, None if scratch else params, model_config
