"""Fine-tuning examples of each kind, laid out by hand.

The tokens 0 to 9 stand for themselves; start, delimiter and extract follow.
"""

import dataclasses
import functools
import math

import jax
import jax.numpy as jnp
import numpy as np
import optax
from flax import linen as nn

from gpt1_jax.model import heads, models
from gpt1_jax.task_settings import OwnTask
from gpt1_jax.tasks import batches, examples, features, initialization, table
from gpt1_jax.tasks.definition import Task
from gpt1_jax.train import gradients, optim, step as step_lib
from tests.support import networks, toy_tokenizers

S, D, E = 10, 11, 12  # start, delimiter, extract
CONFIG = dataclasses.replace(networks.GPT_CONFIG, vocab_size=10, n_special=3)
LN2 = math.log(2)


@dataclasses.dataclass
class Case:
  """A task, two examples, and their batch of three rows (one is padding).

  Attributes:
    task, rows: what goes in.
    tokens: the sequences, example by example.
    label: of the batch.
    nats: the task loss of the two examples, if the outputs are BIAS's.
    bits: the mean LM loss over tokens and over sequences, if a token of text
      costs 4 bits and a special one 3.
    targets: of the LM, an example.
  """

  task: Task
  rows: list[examples.Example]
  tokens: list[list[list[int]]]
  label: list[float]
  nats: tuple[float, float]
  bits: tuple[float, float]
  targets: float

  @property
  def kind(self):
    return self.task.kind

  def batch(self):
    """The arrays, laid out by hand."""
    C = len(self.tokens[0])
    out = {
      'tokens': np.zeros((3, C, 8), np.int32),
      'lm_weights': np.zeros((3, C, 8), np.float32),
      'extract': np.zeros((3, C), np.int32),
      'label': np.array([*self.label, 0]),
      'example_weight': np.array([1, 1, 0], np.float32),
      'index': np.array([0, 1, -1], np.int32),
      'mean_targets': np.full(3, self.targets, np.float32),
    }
    for b, sequences in enumerate(self.tokens):
      for c, sequence in enumerate(sequences):
        out['tokens'][b, c, : len(sequence)] = sequence
        out['lm_weights'][b, c, 1 : len(sequence)] = 1
        out['extract'][b, c] = len(sequence) - 1
    value = np.float32 if self.task.regression else np.int32
    return {**out, 'label': out['label'].astype(value)}


def task(kind, **fields):
  if 'labels' in fields:
    fields['metrics'] = ('accuracy',)
  return table.resolve(OwnTask(kind=kind, **fields))


Row = examples.Example
# A quarter for class 0 and three for class 1; 2.0 for a value.
BIAS = {2: [math.log(0.25), math.log(0.75)], 1: [1.0]}
CASES = {
  'classification': Case(
    task('classification', labels=('a', 'b')),
    [Row(('1 2 3',), (), 1), Row(('4',), (), 0)],
    [[[S, 1, 2, 3, E]], [[S, 4, E]]],
    [1, 0],
    (math.log(4 / 3), math.log(4)),
    ((15 + 7) / (4 + 2), (15 / 4 + 7 / 2) / 2),
    3,
  ),
  'entailment': Case(
    task('entailment', labels=('a', 'b')),
    [Row(('1 2', '3'), (), 0), Row(('4', '5'), (), 1)],
    [[[S, 1, 2, D, 3, E]], [[S, 4, D, 5, E]]],
    [0, 1],
    (math.log(4), math.log(4 / 3)),
    ((18 + 14) / (5 + 4), (18 / 5 + 14 / 4) / 2),
    4.5,
  ),
  'similarity': Case(
    task('similarity', labels=('a', 'b')),
    [Row(('1 2', '3'), (), 1), Row(('4', '5'), (), 1)],
    [
      [[S, 1, 2, D, 3, E], [S, 3, D, 1, 2, E]],
      [[S, 4, D, 5, E], [S, 5, D, 4, E]],
    ],
    [1, 1],
    (math.log(4 / 3), math.log(4 / 3)),
    ((18 + 18 + 14 + 14) / (5 + 5 + 4 + 4), (18 / 5 + 14 / 4) / 2),
    9,
  ),
  'regression': Case(
    task('similarity'),
    [Row(('1', '2'), (), 2.5), Row(('3 4', '5 6'), (), 1.0)],
    [
      [[S, 1, D, 2, E], [S, 2, D, 1, E]],
      [[S, 3, 4, D, 5, 6, E], [S, 5, 6, D, 3, 4, E]],
    ],
    [2.5, 1.0],
    (0.25, 1.0),
    ((14 + 14 + 22 + 22) / (4 + 4 + 6 + 6), (14 / 4 + 22 / 6) / 2),
    10,
  ),
  'choice': Case(
    task('choice', texts=('text', 'text_pair')),
    [Row(('1', '2'), ('3', '4 5'), 1), Row(('7 8', '9'), ('0', '1'), 0)],
    [
      [[S, 1, 2, D, 3, E], [S, 1, 2, D, 4, 5, E]],
      [[S, 7, 8, 9, D, 0, E], [S, 7, 8, 9, D, 1, E]],
    ],
    [1, 0],
    (math.log(2), math.log(2)),
    (
      (18 + 22 + 22 + 22) / (5 + 6 + 6 + 6),
      (18 / 5 + 22 / 6 + 22 / 6 + 22 / 6) / 4,
    ),
    11.5,
  ),
}


def built(case):
  made = features.build(
    case.task, case.rows, toy_tokenizers.DigitTokenizer(), 16
  )
  return batches.Batches(made, batches.BatchSettings(3, lengths=(8,))).batch(0)


def head_of(case, clf_pdrop=0.0):
  return heads.Head(case.kind, case.task.num_outputs, clf_pdrop)


def random_params(case, config):
  rng = np.random.default_rng(5)
  Y = case.task.num_outputs
  clf = {'kernel': rng.normal(size=(64, Y)) * 0.2, 'bias': rng.normal(size=Y)}
  return {
    'gpt': networks.gpt_params(config),
    'head': {'clf': jax.tree.map(jnp.float32, clf)},
  }


@functools.cache
def fresh(config, seed=3):
  """Parameters as fine-tuning from scratch starts with them."""
  head = heads.Head('choice', 1, 0.1)
  init = functools.partial(initialization.init_params, models.new(config), head)
  return jax.jit(lambda: nn.unbox(init(jax.random.key(seed))))()


def sgd_step(case, config, params, lm_coef=0.5, **settings):
  """Returns `train_step` of a case, jitted, and the state it starts from."""
  loss_fn = step_lib.finetune_loss(
    models.new(config),
    head_of(case, 0.1),
    lm_coef,
    settings.get('reduction', 'tokens'),
  )
  optimizer = optax.sgd(1.0)
  step = functools.partial(
    step_lib.train_step,
    loss_fn=loss_fn,
    optimizer=optim.Optimizer(optimizer, lambda step: 1.0),
    plan=gradients.Plan(settings.get('microbatches', 1)),
    seed=3,
  )
  state = step_lib.TrainState(
    jnp.zeros([], jnp.int32), params, optimizer.init(params)
  )
  return jax.jit(step), state
