r"""Pretrains GPT-1 on prepared token shards (P §3.1, §4.1).

  python -m gpt1_jax.pretrain --config=configs/pretrain.py:mini \
      --workdir=runs/mini --config.data.path=data/books

The configuration is a file; what follows the colon is a preset (paper, openai,
mini, tiny), and any setting of it can be changed on the command line
(--config.optim.peak_lr=1e-4). Started again with the same --workdir, it goes
on from the last checkpoint. Results: WORKDIR/metrics.jsonl, tensorboard/,
checkpoints/, scores.json.

WORKDIR and config.data.path may lie in a bucket (gs://BUCKET/...); shards are
copied from there to --stage_to, once a machine.
"""

import contextlib
from collections.abc import Callable
from typing import Any

import jax
from absl import flags
from ml_collections import config_flags

from gpt1_jax import cli, storage
from gpt1_jax.compiler import executable as executable_lib
from gpt1_jax.corpus import (
  shards,
  tokenization,
  windows,
)
from gpt1_jax.model import models
from gpt1_jax.train import (
  checkpoint,
  hosts,
  loop,
  perplexity,
  pretraining,
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
_EXECUTABLE = flags.DEFINE_string(
  'executable',
  None,
  'Compiled train step of `launch/aot_compile.py --save`, of this very '
  'configuration and machine; a file you trust.',
)


def main(argv: list[str]) -> None:
  del argv
  with hosts.connected():
    pretrain(_CONFIG.value.to_dict(), _WORKDIR.value, _EXECUTABLE.value)


def pretrain(
  config: dict[str, Any], workdir: str, executable: str | None = None
) -> dict[str, Any]:
  """Runs the whole of pretraining; returns what scores.json holds.

  Args:
    config: plain values.
    workdir: the run.
    executable: a file with the compiled train step.
  """
  settings = pretraining.settings(config)
  # 1. What there is to read.
  data = shards.fetch(settings.data.path, cli.STAGE_TO.value)
  meta = shards.read_meta(data)
  tokenizer = tokenization.load(data)
  model_config = pretraining.model_config(settings, tokenizer.vocab_size)
  mesh = cli.fill(
    'mesh', sharding.make_mesh, settings.mesh, devices=jax.devices()
  )
  train, validation = _open(data, settings.data, model_config.n_ctx, mesh)
  num_steps = cli.num_steps(
    settings.train.num_steps,
    settings.train.num_epochs,
    train.num_windows / settings.data.batch_size,
  )
  # 2. Everything that can be refused is refused before any computation.
  program = pretraining.build(settings, model_config, mesh, num_steps)
  if executable:
    program = executable_lib.load(executable, program, config)
  facts = {
    'model': vars(model_config),
    'tokenizer_fingerprint': tokenizer.fingerprint,
  }
  parameters = models.num_parameters(model_config)
  counts = {'parameters': parameters, 'num_steps': num_steps}
  run.start(workdir, 'pretrain', config, {**facts, **counts})
  if jax.process_index() == 0:
    tokenizer.save(f'{workdir}/tokenizer')
  held_out = meta['splits']['validation']
  evaluate = perplexity.perplexity_fn(
    program.model, mesh, validation, held_out['words']
  )
  # 3. Updates, from the start or from the last checkpoint.
  with sharding.use(mesh):
    state, scores = _fit(
      program, settings.train, workdir, train.batch, num_steps, evaluate, facts
    )
    scores = scores or evaluate(state.params)
  return _write_scores(
    workdir,
    {
      'split': 'validation',
      'tokens': held_out['tokens'],
      'words': held_out['words'],
      **scores,
      'step': num_steps,
      'parameters': parameters,
      'tokens_seen': num_steps * settings.data.batch_size * model_config.n_ctx,
    },
  )


def _fit(
  program: pretraining.Program,
  settings: pretraining.TrainSettings,
  workdir: str,
  batch_fn: Callable[[int], loop.Batch],
  num_steps: int,
  evaluate: Callable[[Any], dict[str, float]],
  facts: dict[str, Any],
) -> tuple[step_lib.TrainState, dict[str, float] | None]:
  """State: born sharded, or restored into the same shardings; then the loop."""
  seed = step_lib.place_seed(settings.seed, program.mesh)
  state = program.new_state(seed)
  with contextlib.closing(
    checkpoint.Checkpoints(workdir, keep=settings.keep, keep_best=False)
  ) as checkpoints:
    if checkpoints.latest_step is not None:
      state = checkpoints.restore(checkpoints.latest_step, state)
    with telemetry.Telemetry(
      workdir,
      start_step=int(state.step),
      num_steps=num_steps,
      flops_per_token=models.flops_per_token(program.model.config),
      label='pretrain',
    ) as log:
      return loop.fit(
        state,
        lambda state, batch: program.train_step(state, batch, seed),
        mesh=program.mesh,
        batch_fn=batch_fn,
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


def _open(
  path: str,
  data: pretraining.DataSettings,
  n_ctx: int,
  mesh: jax.sharding.Mesh,
) -> tuple[windows.Windows, windows.Windows]:
  """Windows of the training split, shuffled, and of the other, in order."""
  train, validation = (
    windows.Windows(
      path,
      split,
      n_ctx=n_ctx,
      batch_size=data.batch_size,
      cross_documents=data.cross_documents,
      seed=seed,
      rows=sharding.host_rows(mesh, data.batch_size),
    )
    for split, seed in (('train', data.seed), ('validation', None))
  )
  return train, validation


def _write_scores(workdir: str, scores: dict[str, Any]) -> dict[str, Any]:
  if jax.process_index() == 0:
    storage.write_json(f'{workdir}/scores.json', scores)
    print(
      f'{workdir}: {scores["step"]} updates, validation perplexity '
      f'{scores["eval_perplexity"]:.2f} a token, '
      f'{scores["eval_word_perplexity"]:.2f} a word'
    )
  return scores


if __name__ == '__main__':
  cli.run(main)
