r"""Evaluates a run: perplexity on prepared shards, or zero-shot task scores.

  python -m gpt1_jax.evaluate --workdir=runs/mini --data=data/books
  python -m gpt1_jax.evaluate --workdir=runs/mini --data=data/new --split=train
  python -m gpt1_jax.evaluate --workdir=runs/mini --suite=zero_shot \
      --tasks_path=data/tasks --series

Perplexity is measured on the shards that the run was trained on, or on --data.
Every token but the first is a target exactly once. The perplexity per word
divides the same sum by the number of words, and bits per byte by the bytes of
the cleaned text: both compare across vocabularies.

--suite=zero_shot scores tasks without fine-tuning (the paper's section 5): the
most likely of several texts is the answer. --tasks_path is the folder (zip,
tar, or tfds[:FOLDER]) that holds the original files of the tasks. Every task
found there is scored, or those named with --tasks:

  cola          acceptable if the mean log-probability of the sentence's tokens
                reaches a threshold, chosen on train; Matthews, dev
  sst2          the likelier of `positive` and `negative` after ` very`; dev
  race, race_middle, race_high, story_cloze
                the answer with the highest mean log-probability of its tokens,
                given article and question (or the story); test, or dev if
                test has no labels
  dprd, wsc273  the referent that, put in place of the pronoun, gives the rest
                of the text the highest mean log-probability
                (test.c.txt; WSCollection.xml or wsc273.jsonl)

Writes WORKDIR/zero_shot.jsonl, a row for each checkpoint and task, merged with
the rows already there; zero_shot/TASK-STEP.tsv, every answer; zero_shot.svg, a
plot of scores over updates: 0 is chance, 1 the state of the art before GPT-1.
--series scores every checkpoint that the run kept (config.train.keep).

The run, shards and tasks may be in a bucket (gs://BUCKET/...). Shards and tasks
are first copied to --stage_to, once per machine.
"""

import json
from collections.abc import Mapping, Sequence

from absl import flags

from gpt1_jax import cli, cluster, interrupts, staging
from gpt1_jax.errors import UserError

_WORKDIR = flags.DEFINE_string('workdir', None, 'The run.', required=True)
_SUITE = flags.DEFINE_enum(
  'suite', 'perplexity', ['perplexity', 'zero_shot'], 'What to measure.'
)
_DATA = flags.DEFINE_string(
  'data', None, 'Prepared shards; default: those the run was trained on.'
)
_SPLIT = flags.DEFINE_enum(
  'split',
  'validation',
  ['train', 'validation'],
  'Split of the shards to evaluate.',
)
_TASKS_PATH = flags.DEFINE_string(
  'tasks_path', None, 'Folder, zip or tar of the tasks, or tfds[:FOLDER].'
)
_TASKS = flags.DEFINE_list('tasks', [], 'Tasks to score; default: all found.')
_SERIES = flags.DEFINE_bool('series', False, 'Score every kept checkpoint.')
_BATCH = flags.DEFINE_integer(
  'batch_size',
  32,
  'Windows or sequences per device in a batch.',
  lower_bound=1,
  upper_bound=2**20,
)
_STEP = cli.define_step()
# Flags that only one suite accepts.
_ONLY = {
  'perplexity': ('data', 'split'),
  'zero_shot': ('tasks_path', 'tasks', 'series'),
}
_STAGE_TO = cli.define_stage_to()


def main() -> None:
  for suite, names in _ONLY.items():
    for name in names:
      if suite != _SUITE.value and flags.FLAGS[name].present:
        raise UserError(f'--{name} requires --suite={suite}')
  cli.say_first(f'evaluate: {_SUITE.value} of {_WORKDIR.value}')
  rows = _zero_shot() if _SUITE.value == 'zero_shot' else _perplexity()
  for row in rows:
    print(json.dumps(row))


def _zero_shot() -> Sequence[Mapping[str, object]]:
  """Returns the rows on the first host, none on the others."""
  workdir, tasks = _WORKDIR.value, _TASKS_PATH.value
  if not tasks:
    raise UserError('--suite=zero_shot requires --tasks_path=FOLDER (or tfds)')
  if _SERIES.value and _STEP.value is not None:
    raise UserError('--series scores every checkpoint: remove --checkpoint')
  with interrupts.importing():
    import jax

    from gpt1_jax.reporting import figures
    from gpt1_jax.tasks.zero_shot import evaluation
    from gpt1_jax.train import checkpoint
  with cluster.connected():
    steps: Sequence[int | None] = [_STEP.value]
    if _SERIES.value:
      steps = checkpoint.steps(workdir)
    path = staging.fetch(tasks, _STAGE_TO.value)
    rows = evaluation.evaluate(workdir, path, _TASKS.value, steps, _BATCH.value)
    if jax.process_index():
      return []
    figures.write_zero_shot_plot(workdir)
  return rows


def _perplexity() -> Sequence[Mapping[str, object]]:
  """Returns the row on the first host, none on the others."""
  with interrupts.importing():
    import jax

    from gpt1_jax.train import held_out
  workdir = _WORKDIR.value
  with cluster.connected():
    data = _DATA.value or held_out.shards_of(workdir)
    shards = held_out.Shards(data, _SPLIT.value, _STAGE_TO.value)
    row = held_out.score(workdir, _STEP.value, shards, _BATCH.value)
    return [] if jax.process_index() else [row]


if __name__ == '__main__':
  cli.run(main)
