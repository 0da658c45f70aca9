r"""Pretrains GPT-1 on prepared token shards (the paper's sections 3.1 and 4.1).

  python -m gpt1_jax.pretrain --config=configs/pretrain.py:mini \
      --workdir=runs/mini --config.data.path=data/books

A first model in minutes, from text that comes with Python:

  python -m gpt1_jax.prepare --input=builtin:python-reference \
      --output=data/reference --merges=1500
  python -m gpt1_jax.pretrain --config=configs/pretrain.py:demo \
      --workdir=runs/first --config.data.path=data/reference

`convert` turns the weights that OpenAI released into a run.

The configuration is a file; the word after the colon is a preset (paper,
openai, mini, tiny, demo, record, lstm), and flags override any setting
(--config.optim.peak_lr=1e-4). The same command resumes an interrupted run from
its last checkpoint. Results: metrics.jsonl, tensorboard/, checkpoints/ and
scores.json in WORKDIR.

SIGTERM and Ctrl-C finish the update, save and exit with code 75. A run may be
resumed with more or fewer updates, other intervals, or another mesh.
--config.init_from=FOLDER starts from the weights of a run, of OpenAI's released
files or of a Hugging Face folder; --config.init_from=frequencies from random
weights that know how frequent each token is, and =neighbours also which tokens
stand beside which; --fork_from=RUN[@STEP] from the whole state of a run,
whatever init_from is.

WORKDIR and config.data.path may be in a bucket (gs://BUCKET/...); shards are
copied from there to --stage_to, once per machine.
"""

import dataclasses

from absl import flags

from gpt1_jax import cli, cluster, config, interrupts, storage
from gpt1_jax.errors import UserError

_CONFIG = cli.define_config(
  'configs/pretrain.py',
  'Configuration file and preset, such as configs/pretrain.py:mini.',
)
_WORKDIR = cli.define_workdir()
_PROFILE = cli.define_profile()
_EXECUTABLE = flags.DEFINE_string(
  'executable',
  None,
  'Train step that `launch/aot_compile.py --save` compiled for exactly this '
  'configuration and machine. Loading it executes code: only use files you '
  'trust.',
)
_FORK = flags.DEFINE_string(
  'fork_from',
  None,
  'RUN or RUN@STEP: start from the weights, optimiser and update count of '
  'that run, under this configuration.',
)
_STAGE_TO = cli.define_stage_to()


def main() -> None:
  settings = cli.read_config(config.PretrainConfig, _CONFIG.value)
  workdir = cli.required('workdir', _WORKDIR.value)
  cli.say_first(f'pretrain: {_CONFIG.value}, in {workdir}')
  with interrupts.importing():
    from gpt1_jax.compiler import executable
    from gpt1_jax.corpus import shards
    from gpt1_jax.interop import conversion
    from gpt1_jax.train import checkpoint, lock, pretraining, profiling, run
  profile = profiling.parse(_PROFILE.value)
  with cluster.connected(), lock.held(workdir):
    data = shards.fetch(settings.data.path, _STAGE_TO.value)
    initial = None
    folder = settings.folder_of_weights
    if folder and not run.has_begun(workdir):
      if not storage.path(checkpoint.split_step(folder)[0]).exists():
        raise UserError(
          f'config.init_from is {folder}: no such folder, and none of '
          + ', '.join(config.FROM_SCRATCH)
        )
      initial = conversion.read_weights(folder, _STAGE_TO.value)
    loaded = pretraining.load(settings, data, initial)
    if _EXECUTABLE.value:
      program = executable.load(_EXECUTABLE.value, loaded.program, settings)
      loaded = dataclasses.replace(loaded, program=program)
    fork = None
    if _FORK.value:
      fork = run.Fork(*checkpoint.split_step(_FORK.value))
    pretraining.run(loaded, workdir, fork, profile)


if __name__ == '__main__':
  cli.run(main, is_run=True)
