r"""Perplexity of a run on prepared shards, or its zero-shot scores.

  python -m gpt1_jax.evaluate --workdir=runs/mini --data=data/books
  python -m gpt1_jax.evaluate --workdir=runs/mini --data=data/new --split=train
  python -m gpt1_jax.evaluate --workdir=runs/mini --suite=zero_shot \
      --tasks_path=data/tasks --series

Without --data, the shards the run was trained on. Every token but the first
is a target exactly once; the perplexity per word divides the same sum by the
number of words, so that vocabularies compare.

--suite=zero_shot scores tasks without any training (P §5): the model says how
likely a text is, and the likelier answer is taken. --tasks_path is the folder
(zip, tar, or tfds[:FOLDER]) that holds the tasks' original files; run are
those found there, or those named with --tasks:

  cola          acceptable if the mean log-probability of the sentence's tokens
                reaches a threshold, chosen on train; Matthews, dev
  sst2          ` very`, then the likelier of `positive` and `negative`; dev
  race, race_middle, race_high, story_cloze
                the answer with the highest mean log-probability of its tokens,
                given article and question (or the story); test, or dev where
                test has no labels
  dprd, wsc273  each referent put for the pronoun, the highest mean
                log-probability of the rest of the text
                (test.c.txt; WSCollection.xml or wsc273.jsonl)

Results: WORKDIR/zero_shot.jsonl, a row a checkpoint and task, joined with what
was there; zero_shot/TASK-STEP.tsv, every answer; zero_shot.svg, a plot over
updates between chance (0) and the state of the art before GPT-1 (1). --series
takes every checkpoint that the run kept (config.train.keep).

A run, shards and tasks may lie in a bucket (gs://BUCKET/...); the last two are
copied from there to --stage_to, once a machine.
"""

import json

import jax
from absl import flags

from gpt1_jax import cli, staging
from gpt1_jax.corpus import shards, tokenization, windows
from gpt1_jax.errors import UserError
from gpt1_jax.model import models
from gpt1_jax.tasks.zero_shot import evaluation
from gpt1_jax.train import checkpoint, perplexity, run, sharding

_WORKDIR = flags.DEFINE_string('workdir', None, 'A run.', required=True)
_SUITE = flags.DEFINE_enum(
  'suite', 'perplexity', ['perplexity', 'zero_shot'], 'What to measure.'
)
_DATA = flags.DEFINE_string(
  'data', None, 'Prepared shards; default: those of the run.'
)
_SPLIT = flags.DEFINE_enum(
  'split', 'validation', shards.SPLITS, 'Which part of them.'
)
_TASKS_PATH = flags.DEFINE_string(
  'tasks_path', None, 'Zero-shot: where the tasks are; tfds[:FOLDER] is TFDS.'
)
_TASKS = flags.DEFINE_list(
  'tasks', [], 'Zero-shot: which tasks, see above; default: those found.'
)
_SERIES = flags.DEFINE_bool(
  'series', False, 'Zero-shot: every checkpoint of the run, in order.'
)
_BATCH = flags.DEFINE_integer(
  'batch_size', 32, 'Windows, or sequences, at a time on one device.'
)
_STEP = flags.DEFINE_integer(
  'checkpoint', None, 'Which checkpoint; default: the best or the latest.'
)
# Flags that only one of the suites takes.
_ONLY = {
  'perplexity': ('data', 'split'),
  'zero_shot': ('tasks_path', 'tasks', 'series'),
}


def main(argv: list[str]) -> None:
  del argv
  with cli.connected():
    _evaluate()


def _evaluate() -> None:
  if _BATCH.value < 1:
    raise UserError(f'--batch_size is {_BATCH.value}: at least 1')
  for name, own in _ONLY.items():
    for flag in own:
      if name != _SUITE.value and flags.FLAGS[flag].present:
        raise UserError(f'--{flag} is of --suite={name}: give that, or not it')
  if _SUITE.value == 'zero_shot':
    _zero_shot()
  else:
    _perplexity()


def _zero_shot() -> None:
  if not _TASKS_PATH.value:
    raise UserError(
      '--tasks_path is missing: the folder that holds the zero-shot tasks, or '
      'tfds'
    )
  if _SERIES.value and _STEP.value is not None:
    raise UserError('--series takes every checkpoint, --checkpoint one of them')
  steps = [_STEP.value]
  if _SERIES.value:
    steps = checkpoint.steps(_WORKDIR.value)
  rows = evaluation.evaluate(
    _WORKDIR.value,
    staging.fetch(_TASKS_PATH.value, cli.STAGE_TO.value),
    _TASKS.value,
    steps,
    _BATCH.value,
  )
  if jax.process_index() == 0:
    for row in rows:
      print(json.dumps(row))


def _perplexity() -> None:
  data = _DATA.value or _trained_on(_WORKDIR.value)
  params, meta, step = checkpoint.read(_WORKDIR.value, _STEP.value)
  here = shards.fetch(data, cli.STAGE_TO.value)
  facts = shards.read_meta(here)['splits'][_SPLIT.value]
  if tokenization.load(here).fingerprint != meta.tokenizer_fingerprint:
    raise UserError(
      f'{data}: made with another tokenizer than {_WORKDIR.value} was trained '
      f'with; prepare it with --tokenizer={_WORKDIR.value}'
    )
  config = meta.model
  mesh = sharding.make_mesh(jax.devices(), data=-1, fsdp=1, tensor=1)
  batch_size = _BATCH.value * jax.device_count()
  split = windows.Windows(
    shards.Tokens(here, _SPLIT.value),
    n_ctx=config.n_ctx,
    batch_size=batch_size,
    cross_documents=True,
    seed=None,
    rows=sharding.host_rows(mesh, batch_size),
  )
  with sharding.use(mesh):
    evaluate = perplexity.perplexity_fn(
      models.new(config), mesh, split, facts['words']
    )
    whole = sharding.replicated(mesh)
    scores = evaluate(
      {'gpt': jax.tree.map(lambda x: sharding.put(x, whole), params['gpt'])}
    )
  if jax.process_index() == 0:
    print(
      json.dumps(
        {'data': data, 'split': _SPLIT.value, 'step': step, **facts, **scores}
        | {'shards': len(facts['shards'])}
      )
    )


def _trained_on(workdir: str) -> str:
  settings = run.load(workdir)['config']
  if 'data' not in settings:
    raise UserError(
      f'{workdir}: was not trained here; name prepared shards with --data'
    )
  return settings['data']['path']


if __name__ == '__main__':
  cli.run(main)
