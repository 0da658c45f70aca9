"""Defines the tasks that this package knows, one entry each.

An entry names the columns and labels of a task, the files of its original
archive and its data sets in TFDS; `examples.py` reads every one of them.
"""

import dataclasses
from typing import Any

from gpt1_jax import task_settings
from gpt1_jax.errors import UserError
from gpt1_jax.tasks.definition import VALUE_METRICS, Task

# The twelve tasks of P §4.2, in the order of docs/reference.md §4.
TWELVE = (
  'snli',
  'mnli',
  'qnli',
  'rte',
  'scitail',
  'race',
  'story_cloze',
  'mrpc',
  'qqp',
  'stsb',
  'sst2',
  'cola',
)
_GLUE_FILES = {s: (f'{s}.tsv',) for s in ('train', 'dev', 'test')}
_SENTENCES = ('sentence1', 'sentence2')
_PREMISE = ('premise', 'hypothesis')  # names in TFDS
# Label orders are those of TFDS, so that both sources agree.
_NLI = ('entailment', 'neutral', 'contradiction')
_RTE = ('entailment', 'not_entailment')
_BINARY = ('0', '1')
_STORIES = ('cloze_test_val__spring2016*.csv', 'cloze_test_val*.csv')
_LETTERS = ('A', 'B', 'C', 'D')


def _nli_files(stem: str) -> tuple[str, str]:
  return f'{stem}.txt', f'{stem}.jsonl'


def _tfds(name: str) -> dict[str, tuple[str, ...]]:
  return {
    'train': (f'{name}:train',),
    'dev': (f'{name}:validation',),
    'test': (f'{name}:test',),
  }


def _race(*levels: str) -> Task:
  """Builds RACE of one or both levels; with both, each is a split as well."""
  parts = {'': levels}
  if len(levels) > 1:
    parts.update({f'_{level}': (level,) for level in levels})
  splits = {'train': ('train', levels)}
  for split in ('dev', 'test'):
    splits.update({f'{split}{p}': (split, parts[p]) for p in parts})
  return Task(
    'race' if len(levels) > 1 else f'race_{levels[0]}',
    'choice',
    _LETTERS,
    texts=('article', 'question'),
    choices='options',
    label='answer',
    layout='articles',
    files={
      split: tuple(f'{folder}/{level}/*.txt' for level in found)
      for split, (folder, found) in splits.items()
    },
    folders=('RACE',),
    tfds={
      split: tuple(f'race/{level}:{folder}' for level in found)
      for split, (folder, found) in splits.items()
    },
  )


# fmt: off
_ROWS = (
  Task('cola', 'classification', _BINARY, ('matthews', 'accuracy'),
       texts=('sentence',), files=_GLUE_FILES, folders=('CoLA',),
       columns=('source', 'label', 'mark', 'sentence'),
       tfds=_tfds('glue/cola'), submission={'test': 'CoLA.tsv'}),
  Task('sst2', 'classification', _BINARY, texts=('sentence',),
       files=_GLUE_FILES, folders=('SST-2',),
       tfds=_tfds('glue/sst2'), submission={'test': 'SST-2.tsv'}),
  Task('rte', 'entailment', _RTE, texts=_SENTENCES,
       files=_GLUE_FILES, folders=('RTE',),
       tfds=_tfds('glue/rte'), submission={'test': 'RTE.tsv'}),
  Task('wnli', 'entailment', _BINARY, texts=_SENTENCES,
       files=_GLUE_FILES, folders=('WNLI',),
       tfds=_tfds('glue/wnli'), submission={'test': 'WNLI.tsv'}),
  Task('qnli', 'entailment', _RTE, texts=('question', 'sentence'),
       files=_GLUE_FILES, folders=('QNLI', 'QNLIv2'),
       tfds=_tfds('glue/qnli'), submission={'test': 'QNLI.tsv'}),
  Task('mnli', 'entailment', _NLI, texts=_SENTENCES, label='gold_label',
       files={
         'train': ('train.tsv', *_nli_files('multinli_1.0_train')),
         'dev': ('dev_matched.tsv', *_nli_files('multinli_1.0_dev_matched')),
         'dev_mismatched': ('dev_mismatched.tsv',
                            *_nli_files('multinli_1.0_dev_mismatched')),
         'test': ('test_matched.tsv',),
         'test_mismatched': ('test_mismatched.tsv',),
         'test_ax': ('AX.tsv', 'ax.tsv', 'diagnostic.tsv'),
       }, folders=('MNLI', 'multinli_1.0', 'AX', 'diagnostic'),
       tfds={
         'train': ('glue/mnli:train',),
         'dev': ('glue/mnli:validation_matched',),
         'dev_mismatched': ('glue/mnli:validation_mismatched',),
         'test': ('glue/mnli:test_matched',),
         'test_mismatched': ('glue/mnli:test_mismatched',),
         'test_ax': ('glue/ax:test',),
       }, tfds_texts=_PREMISE,
       submission={'test': 'MNLI-m.tsv', 'test_mismatched': 'MNLI-mm.tsv',
                   'test_ax': 'AX.tsv'}),
  Task('snli', 'entailment', _NLI, texts=_SENTENCES, label='gold_label',
       files={
         split: (*_nli_files(f'snli_1.0_{split}'), f'{split}.tsv')
         for split in ('train', 'dev', 'test')
       }, folders=('snli_1.0', 'SNLI'), label_last=True,
       tfds=_tfds('snli'), tfds_texts=_PREMISE),
  Task('scitail', 'entailment', ('entails', 'neutral'), texts=_SENTENCES,
       label='gold_label', files={
         split: (f'scitail_1.0_{split}.tsv', f'scitail_1.0_{split}.txt',
                 f'scitail_1.0_structure_{split}.tsv')
         for split in ('train', 'dev', 'test')
       }, folders=('SciTailV1.1', 'SciTail', 'tsv_format', 'snli_format',
                   'predictor_format', 'dgem_format'),
       columns=('sentence1', 'sentence2', 'gold_label', 'structure'),
       synonyms=(('entailment', 'entails'),),
       tfds=_tfds('sci_tail'), tfds_texts=_PREMISE),
  Task('mrpc', 'similarity', _BINARY, ('f1', 'accuracy'),
       texts=('#1 String', '#2 String'), label='Quality', files={
         'train': ('train.tsv', 'msr_paraphrase_train.txt', 'train'),
         'dev': ('dev.tsv',),
         'test': ('test.tsv', 'msr_paraphrase_test.txt', 'test'),
       }, folders=('MRPC',),
       held_out=('dev_ids.tsv', 'mrpc_dev_ids.tsv', 'dev_ids'),
       tfds=_tfds('glue/mrpc'), tfds_texts=_SENTENCES,
       submission={'test': 'MRPC.tsv'}),
  # 22 rows of GLUE's QQP files are broken in two; TFDS drops them too.
  Task('qqp', 'similarity', _BINARY, ('f1', 'accuracy'),
       texts=('question1', 'question2'), label='is_duplicate',
       files=_GLUE_FILES, folders=('QQP', 'QQP-clean'), cut_rows=True,
       tfds=_tfds('glue/qqp'), submission={'test': 'QQP.tsv'}),
  Task('stsb', 'similarity', (), ('pearson', 'spearman'),
       texts=_SENTENCES, label='score', files=_GLUE_FILES,
       folders=('STS-B',), bounds=(0.0, 5.0),
       tfds=_tfds('glue/stsb'), submission={'test': 'STS-B.tsv'}),
  _race('middle', 'high'),
  _race('middle'),
  _race('high'),
  # Train and dev are the validation file: 374 of 1,871 rows are dev (C).
  Task('story_cloze', 'choice', ('1', '2'), texts=('context',),
       choices='endings', label='AnswerRightEnding', layout='stories',
       files={'train': _STORIES, 'dev': _STORIES,
              'test': ('cloze_test_test__spring2016*.csv',
                       'cloze_test_test*.csv',
                       'cloze_test_spring2016*test.csv')},
       folders=('StoryCloze', 'ROCStories'), dev_share=374 / 1871,
       tfds={'train': ('story_cloze/2016:validation',),
             'dev': ('story_cloze/2016:validation',),
             'test': ('story_cloze/2016:test',)}),
)
# fmt: on
TASKS: dict[str, Task] = {task.name: task for task in _ROWS}


def resolve(task: str | task_settings.OwnTask | None) -> Task:
  """Returns the task a configuration names or describes.

  Args:
    task: a key of `TASKS`, or a user's own task. By default its metrics are
      accuracy, or Pearson and Spearman for regression, and its texts are
      `text`, or `text` and `text_pair` for entailment and similarity.

  Raises:
    UserError: no task is named, it is unknown, or its fields do not fit
      together.
  """
  if not task:
    raise UserError(
      'config.task is not set: use --config=configs/finetune.py:TASK with one '
      f'of {", ".join(TASKS)}'
    )
  if isinstance(task, str):
    if task not in TASKS:
      raise UserError(
        f'no task {task!r}: choose one of {", ".join(TASKS)}, or describe '
        'your own as configs/own_task.py does'
      )
    return TASKS[task]
  fields: dict[str, Any] = {
    field.name: getattr(task, field.name)
    for field in dataclasses.fields(task)
    if getattr(task, field.name) is not None
  }
  if task.kind != 'choice' and not task.labels:
    fields.setdefault('metrics', VALUE_METRICS)
  if task.kind in ('entailment', 'similarity'):
    fields.setdefault('texts', ('text', 'text_pair'))
  return Task(**fields, own=True)
