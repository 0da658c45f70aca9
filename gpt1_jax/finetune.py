r"""Fine-tunes a pretrained GPT-1 on a task (P §3.2, §3.3, §4.1).

  python -m gpt1_jax.finetune --config=configs/finetune.py:rte \
      --config.init_from=runs/mini --config.data.path=glue/RTE \
      --workdir=runs/rte

From scratch, with the shape and the tokenizer of a run, for comparison:
--config.init_from=none --config.like=runs/mini. Started again with the same
--workdir, it goes on from the last checkpoint. The best checkpoint on the dev
set is kept; results are in WORKDIR/scores.json, predictions/*.tsv,
submission/*.tsv (for gluebenchmark.com) and metrics.jsonl.

--config.train.seeds=10 runs ten, each in WORKDIR/seed-N, and reports median,
minimum and maximum. `configs/finetune.py:all` runs the paper's twelve tasks,
each in WORKDIR/TASK. In both what is finished is not run again.

WORKDIR, the runs and the task's files may lie in a bucket (gs://BUCKET/...);
files are copied from there to --stage_to, once a machine, which is quick for an
archive and slow for a folder of many files.
"""

from absl import flags
from ml_collections import config_flags

from gpt1_jax import cli
from gpt1_jax.tasks import all_tasks
from gpt1_jax.train import hosts

_CONFIG = config_flags.DEFINE_config_file(
  'config',
  'configs/finetune.py',
  'Configuration file, with a task: configs/finetune.py:rte.',
)
_WORKDIR = flags.DEFINE_string(
  'workdir',
  None,
  'Folder of the run: made if absent, gone on from if it holds this run.',
  required=True,
)


def main(argv: list[str]) -> None:
  del argv
  with hosts.connected():
    all_tasks.finetune(
      _CONFIG.value.to_dict(), _WORKDIR.value, cli.STAGE_TO.value
    )


if __name__ == '__main__':
  cli.run(main)
