r"""Pretrains GPT-1 on prepared token shards (P §3.1, §4.1).

  python -m gpt1_jax.pretrain --config=configs/pretrain.py:mini \
      --workdir=runs/mini --config.data.path=data/books

The configuration is a file; what follows the colon is a preset (paper, openai,
mini, tiny), and any setting of it can be changed on the command line
(--config.optim.peak_lr=1e-4). Started again with the same --workdir, it goes
on from the last checkpoint. Results: WORKDIR/metrics.jsonl, tensorboard/,
checkpoints/, scores.json.
"""

import dataclasses
import functools
from typing import Any

import jax
import jax.numpy as jnp
from absl import flags
from ml_collections import config_flags

from gpt1_jax import command
from gpt1_jax.data import shards, tokenizer as tokenizer_lib, windows
from gpt1_jax.model import models
from gpt1_jax.train import (
  checkpoint,
  loop,
  optim,
  perplexity,
  run,
  sharding,
  step as step_lib,
  telemetry,
)

_CONFIG = config_flags.DEFINE_config_file(
  'config',
  'configs/pretrain.py',
  'Configuration file, with a preset: configs/pretrain.py:mini.',
)
_WORKDIR = flags.DEFINE_string(
  'workdir',
  None,
  'Folder of the run: made if absent, gone on from if it holds this run.',
  required=True,
)


@dataclasses.dataclass(frozen=True)
class TrainSettings:
  """config.train of pretraining."""

  num_steps: int
  num_epochs: float
  log_every: int
  eval_every: int
  checkpoint_every: int
  keep: int
  microbatches: int
  seed: int


@dataclasses.dataclass(frozen=True)
class DataSettings:
  """config.data of pretraining."""

  path: str
  batch_size: int
  seed: int
  cross_documents: bool


def main(argv: list[str]) -> None:
  del argv
  command.keep_memory()
  pretrain(_CONFIG.value.to_dict(), _WORKDIR.value)


def pretrain(config: dict[str, Any], workdir: str) -> dict[str, Any]:
  """Runs the whole of pretraining; returns what scores.json holds."""
  parts = command.sections(config, 'model', 'optim', 'train', 'data', 'mesh')
  settings = command.fill('train', TrainSettings, parts['train'])
  data = command.fill('data', DataSettings, parts['data'])
  every = ('log_every', 'eval_every', 'checkpoint_every', 'keep')
  command.positive('train', parts['train'], *every, 'microbatches')
  command.positive('data', parts['data'], 'batch_size')
  # 1. What there is to read.
  meta = shards.read_meta(data.path)
  tokenizer = tokenizer_lib.load(data.path)
  model_config = command.fill(
    'model',
    models.config_class(parts['model']),
    parts['model'],
    vocab_size=tokenizer.vocab_size,
    n_special=0,
  )
  train, validation = _open(data, model_config.n_ctx)
  num_steps = command.num_steps(
    settings.num_steps, settings.num_epochs, train.num_windows / data.batch_size
  )
  # 2. Everything that can be refused is refused before any computation.
  mesh = command.fill('mesh', sharding.make_mesh, parts['mesh'])
  optimizer, rate = command.fill(
    'optim', optim.make_optimizer, parts['optim'], num_steps=num_steps
  )
  sharding.check_divides(
    mesh,
    data.batch_size,
    settings.microbatches,
    **model_config.divided,
  )
  facts = {
    'model': vars(model_config),
    'tokenizer_fingerprint': tokenizer.fingerprint,
  }
  counts = {
    'parameters': models.num_parameters(model_config),
    'num_steps': num_steps,
  }
  run.start(workdir, 'pretrain', config, {**facts, **counts})
  tokenizer.save(f'{workdir}/tokenizer')
  checkpoints = checkpoint.Checkpoints(
    workdir, keep=settings.keep, keep_best=False
  )
  with sharding.use(mesh):
    # 3. State: born sharded, or restored into the same shardings.
    model = models.new(model_config)
    state, shardings = sharding.init_state(
      functools.partial(
        new_state, model, optimizer, settings.seed, model_config.n_ctx
      ),
      mesh,
    )
    if checkpoints.latest_step is not None:
      state = checkpoints.restore(checkpoints.latest_step, state)
    train_step = step_lib.jit_train_step(
      step_lib.pretrain_loss(model),
      optimizer,
      rate,
      shardings,
      sharding.batch_sharding(mesh),
      microbatches=settings.microbatches,
      seed=settings.seed,
    )
    held_out = meta['splits']['validation']
    evaluate = perplexity.perplexity_fn(
      model, mesh, validation, held_out['words']
    )
    with telemetry.Telemetry(
      workdir,
      start_step=int(state.step),
      num_steps=num_steps,
      flops_per_token=models.flops_per_token(model_config),
      label='pretrain',
    ) as log:
      state, scores = loop.fit(
        state,
        train_step,
        mesh=mesh,
        batch_fn=train.batch,
        num_steps=num_steps,
        log_every=settings.log_every,
        eval_every=settings.eval_every,
        checkpoint_every=settings.checkpoint_every,
        evaluate=evaluate,
        best_metric=None,
        checkpoints=checkpoints,
        meta=facts,
        log=log,
      )
    checkpoints.close()
    scores = scores or evaluate(state.params)
  return _write_scores(
    workdir,
    {
      'split': 'validation',
      'tokens': held_out['tokens'],
      'words': held_out['words'],
      **scores,
      'step': num_steps,
      'parameters': counts['parameters'],
      'tokens_seen': num_steps * data.batch_size * model_config.n_ctx,
    },
  )


def new_state(
  model: models.Model, optimizer: Any, seed: int, n_ctx: int
) -> step_lib.TrainState:
  """Fresh parameters (boxed with their logical axes) and optimiser state."""
  tokens_BT = jnp.zeros((1, n_ctx), jnp.int32)
  variables = model.init(jax.random.key(seed), tokens_BT, seed_2=None)
  params = {'gpt': variables['params']}
  return step_lib.TrainState(
    jnp.zeros([], jnp.int32), params, optimizer.init(params)
  )


def _open(
  data: DataSettings, n_ctx: int
) -> tuple[windows.Windows, windows.Windows]:
  """Windows of the training split, shuffled, and of the other, in order."""
  train, validation = (
    windows.Windows(
      data.path,
      split,
      n_ctx=n_ctx,
      batch_size=data.batch_size,
      cross_documents=data.cross_documents,
      seed=seed,
      host_index=jax.process_index(),
      host_count=jax.process_count(),
    )
    for split, seed in (('train', data.seed), ('validation', None))
  )
  return train, validation


def _write_scores(workdir: str, scores: dict[str, Any]) -> dict[str, Any]:
  if jax.process_index() == 0:
    run.write_json(f'{workdir}/scores.json', scores)
    print(
      f'{workdir}: {scores["step"]} updates, validation perplexity '
      f'{scores["eval_perplexity"]:.2f} a token, '
      f'{scores["eval_word_perplexity"]:.2f} a word'
    )
  return scores


if __name__ == '__main__':
  command.run(main)
