"""Builds runs and configurations that fine-tuning tests start from."""

import pathlib
from pydoc_data import topics
from typing import Any

import jax
import jax.numpy as jnp
from flax import linen as nn

from gpt1_jax import cli, config
from gpt1_jax.model import gpt
from gpt1_jax.settings import GPTConfig
from gpt1_jax.train import checkpoint, step
from tests.support import vocabulary

ROOT = pathlib.Path(__file__).resolve().parents[2]
MODEL = {
  'kind': 'gpt',
  'n_layer': 1,
  'n_head': 2,
  'n_embd': 16,
  'n_ctx': 64,
  'embd_pdrop': 0.1,
  'attn_pdrop': 0.1,
  'resid_pdrop': 0.1,
  'embedding_dropout': 'sum',
  'softmax_rows': 'tokens',
  'dtype': 'float32',
  'attention': 'auto',
  'remat': 'none',
  'unroll': 1,
}


def untrained_run(folder: pathlib.Path) -> pathlib.Path:
  """Writes a checkpoint and a tokenizer; returns the run's folder."""
  workdir = folder / 'pretrained'
  workdir.mkdir()
  words = vocabulary.train_bpe(list(topics.topics.values())[:20], 100)
  words.save(workdir / 'tokenizer')
  model = GPTConfig(**MODEL, vocab_size=words.vocab_size, n_special=0)
  variables = gpt.GPT(model).init(
    jax.random.key(1), jnp.zeros((1, 8), jnp.int32), dropout_key=None
  )
  params = {'gpt': nn.unbox(variables['params'])}
  state = step.TrainState(jnp.ones([], jnp.int32), params, ())
  checkpoints = checkpoint.Checkpoints(str(workdir), keep=1, keep_best=False)
  checkpoints.save(
    1, state, checkpoint.CheckpointMeta(model, words.fingerprint)
  )
  checkpoints.close()
  return workdir


def configuration(
  pretrained: pathlib.Path, task: str, path: Any, **changes: Any
) -> dict[str, Any]:
  """Returns four updates on a task as plain values.

  Args:
    pretrained: from `untrained_run`.
    task: words of configs/finetune.py.
    path: config.data.path.
    **changes: settings, such as train__seeds=2.
  """
  values = cli.config_values(f'{ROOT}/configs/finetune.py:{task},tiny')
  values['init_from'] = str(pretrained)
  values['data'] |= {'path': str(path), 'batch_size': 8, 'lengths': (64,)}
  values['train'] |= {'num_steps': 4, 'log_every': 4}
  values['optim']['peak_lr'] = 1e-2
  for name, value in changes.items():
    section, key = name.split('__')
    assert key in values[section]
    values[section][key] = value
  return values


def parsed(values: dict[str, Any]) -> config.FinetuneConfig:
  """Returns plain values as the typed configuration."""
  return config.parse(config.FinetuneConfig, values)
