r"""Fine-tunes a pretrained GPT-1 on a task (paper, sections 3.2, 3.3, 4.1).

  python -m gpt1_jax.finetune --config=configs/finetune.py:rte \
      --config.init_from=runs/mini --config.data.path=glue/RTE \
      --workdir=runs/rte

configs/own_task.py describes a task of your own: train.jsonl and dev.jsonl.

To train from scratch for comparison, take only a run's model shape and
tokenizer: --config.init_from=none --config.like=runs/mini.

The same command resumes an interrupted run from its last checkpoint. The
checkpoint that scores best on the dev set is kept. Results: scores.json,
predictions/*.tsv and *.jsonl (with texts and labels), submission/*.tsv (for
gluebenchmark.com) and metrics.jsonl in WORKDIR. `predict` labels new text.

--config.train.seeds=10 runs ten seeds, each in WORKDIR/seed-N, and reports
median, minimum and maximum. `configs/finetune.py:all` runs the paper's twelve
tasks, each in WORKDIR/TASK. Both skip finished runs.

WORKDIR, the runs and the task's files may be in a bucket (gs://BUCKET/...).
Files are copied from there to --stage_to, once per machine; an archive copies
much faster than a folder of many files.
"""

from gpt1_jax import cli, cluster, config, interrupts, staging

_CONFIG = cli.define_config(
  'configs/finetune.py',
  'Configuration file and task, such as configs/finetune.py:rte.',
)
_WORKDIR = cli.define_workdir()
_PROFILE = cli.define_profile()
_STAGE_TO = cli.define_stage_to()


def main() -> None:
  settings = cli.read_config(config.FinetuneConfig, _CONFIG.value)
  workdir = cli.required('workdir', _WORKDIR.value)
  cli.say_first(_first_line(settings, workdir))
  with interrupts.importing():
    from gpt1_jax.tasks import all_tasks  # slow: imports jax
    from gpt1_jax.train import profiling
  profile = profiling.parse(_PROFILE.value)
  with cluster.connected():
    tasks_path = staging.fetch(settings.data.path, _STAGE_TO.value)
    all_tasks.finetune(settings, workdir, tasks_path, profile)


def _first_line(settings: config.FinetuneConfig, workdir: str) -> str:
  """Describes the run."""
  task = settings.task
  name = task if isinstance(task, str) else task.name if task else 'no task'
  begin = settings.init_from
  if begin == 'none':
    begin = f'random weights, with the shape of {settings.like}'
  return f'finetune: {name} from {begin}, in {workdir}'


if __name__ == '__main__':
  cli.run(main, is_run=True)
