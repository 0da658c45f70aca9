"""The table of tasks, one row a task.

A row says what the inputs are, how labels are spelled and in which order,
which files the original archive holds and which TFDS data sets; `examples.py`
reads any of them. A user's own task is a row too, written in a config: JSON
lines with `text`, `text_pair` or `choices`, `label`.
"""

import dataclasses
from collections.abc import Mapping
from typing import Any

from gpt1_jax import errors
from gpt1_jax.tasks import own_task

# The twelve of P §4.2, in the order of REFERENCE §4.
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
_OWN_FILES = {s: (f'{s}.jsonl',) for s in ('train', 'dev', 'test')}
_GLUE_FILES = {s: (f'{s}.tsv',) for s in ('train', 'dev', 'test')}


@dataclasses.dataclass(frozen=True)
class Task:
  """One row of the table; the defaults are those of a user's own task.

  Attributes:
    name: what the command line and the scores call it.
    kind: one of `own_task.KINDS`; decides the layout of the input
      (REFERENCE §2).
    labels: spelling of the classes in the files, in the order of the head's
      outputs. Empty is regression (a scalar head), except for choices, where
      it means that the label is the 0-based number of the right answer.
    metrics: names `tasks/metrics.py` knows; the best checkpoint is kept by
      the first.
    texts: columns of the texts: one for classification, two for entailment
      and similarity; context, or context and question, for choice.
    choices: column of the answers (choice only).
    label: column of the label.
    files: split -> file names, most wanted first; a name may be a pattern.
      Splits that begin with `dev` are evaluated, those that begin with `test`
      where they are found.
    folders: what the archive's folder or zip is called.
    columns: names of the columns of a table without a header.
    bounds: least and greatest value (regression only).
    synonyms: (spelling, label) pairs of archives that spell a label otherwise.
    cut_rows: rows of the original file that lack cells are dropped and
      counted instead of refused.
    layout: 'rows'; 'stories', Story Cloze's columns; or 'articles', RACE's
      JSON files, where all the patterns of a split belong to it.
    dev_share: where train and dev are one file, the share of its rows that
      is dev, drawn as the released code does.
    held_out: files of id pairs, columns `#1 ID` and `#2 ID`: where there is
      no dev file, the rows of the training file that make it.
    tfds: split -> 'NAME[/CONFIG]:SPLIT' of TFDS, one or more.
    tfds_texts: features of the texts there, where they are called otherwise.
    submission: split -> file the GLUE server wants.
  """

  name: str
  kind: str
  labels: tuple[str, ...] = ()
  metrics: tuple[str, ...] = ('accuracy',)
  texts: tuple[str, ...] = ('text',)
  choices: str = 'choices'
  label: str = 'label'
  files: Mapping[str, tuple[str, ...]] = dataclasses.field(
    default_factory=lambda: _OWN_FILES, hash=False
  )
  folders: tuple[str, ...] = ()
  columns: tuple[str, ...] = ()
  bounds: tuple[float, float] | None = None
  synonyms: tuple[tuple[str, str], ...] = ()
  cut_rows: bool = False
  layout: str = 'rows'
  dev_share: float = 0.0
  held_out: tuple[str, ...] = ()
  tfds: Mapping[str, tuple[str, ...]] = dataclasses.field(
    default_factory=dict, hash=False
  )
  tfds_texts: tuple[str, ...] = ()
  submission: Mapping[str, str] = dataclasses.field(
    default_factory=dict, hash=False
  )

  @property
  def regression(self) -> bool:
    return self.kind != 'choice' and not self.labels

  @property
  def num_outputs(self) -> int:
    """Width of the head: classes, or 1 for regression and choice."""
    return 1 if self.kind == 'choice' else max(1, len(self.labels))

  @property
  def whole_numbers(self) -> tuple[int, ...]:
    """The whole numbers within the bounds, for a head with one output each.

    Raises:
      UserError: there are no bounds, or they are not whole numbers.
    """
    low, high = self.bounds or (0.5, 0.5)
    if not self.regression or low % 1 or high % 1 or high <= low:
      raise errors.UserError(
        f'task {self.name}: config.head.regression=classes needs a value with '
        'bounds that are whole numbers (config.task.bounds)'
      )
    return tuple(range(int(low), int(high) + 1))

  @property
  def dev_splits(self) -> tuple[str, ...]:
    """Splits to evaluate; the best checkpoint is kept by the first."""
    return tuple(split for split in self.files if split.startswith('dev'))

  @property
  def test_splits(self) -> tuple[str, ...]:
    """Splits to evaluate at the end, or to predict where labels are hidden."""
    return tuple(split for split in self.files if split.startswith('test'))


_SENTENCES = ('sentence1', 'sentence2')
_PREMISE = ('premise', 'hypothesis')  # what TFDS calls them
# Label orders as in TFDS, so that both sources agree (REFERENCE §4).
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
  """RACE, or one of its two halves; the whole is scored by half, too."""
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
       }, folders=('snli_1.0', 'SNLI'),
       tfds=_tfds('snli'), tfds_texts=_PREMISE),
  Task('scitail', 'entailment', ('entails', 'neutral'), texts=_SENTENCES,
       label='gold_label', files={
         split: (f'scitail_1.0_{split}.tsv', f'scitail_1.0_{split}.txt',
                 f'scitail_1.0_structure_{split}.tsv')
         for split in ('train', 'dev', 'test')
       }, folders=('SciTailV1.1', 'SciTail', 'tsv_format', 'snli_format',
                   'predictor_format', 'dgem_format'),
       columns=('sentence1', 'sentence2', 'gold_label'),
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
  # GLUE's QQP files hold 22 rows broken in two; TFDS leaves them out, too.
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
  # Trained on the validation file: 1,497 rows of 1,871; 374 are dev (C).
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


def resolve(task: str | Mapping[str, Any] | None) -> Task:
  """The task a config names, or describes by `Task`'s fields.

  Args:
    task: a name of `TASKS`; or a mapping (a ConfigDict will do) with `kind`
      and as many other fields of `Task` as differ from its defaults. `metrics`
      left out is accuracy, or Pearson and Spearman for regression; `texts`
      left out is `text`, and `text_pair` for pairs.

  Raises:
    UserError: no such task, an unknown field, or fields that do not agree.
  """
  if not task:
    raise errors.UserError(
      'config.task is not set: use --config=configs/finetune.py:TASK with one '
      f'of {", ".join(TASKS)}'
    )
  if isinstance(task, str):
    if task not in TASKS:
      raise errors.UserError(
        f'no task {task!r}: known are {", ".join(TASKS)}; for a task of your '
        'own see configs/own_task.py'
      )
    return TASKS[task]
  fields = {'name': 'own', **dict(task.items())}
  known = [field.name for field in dataclasses.fields(Task)]
  for key in fields:
    if key not in known:
      raise errors.UserError(
        f'config.task.{key}: no such field; there are {", ".join(known)}'
      )
  return Task(**own_task.checked(fields))
