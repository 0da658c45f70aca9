"""The table of tasks, one row a task.

A row says what the inputs are, how labels are spelled and in which order,
and which files the original archive holds; `examples.py` reads any of them.
A user's own task is a row too, written in a config: JSON lines with `text`,
`text_pair` or `choices`, `label`.
"""

import dataclasses
from collections.abc import Mapping
from typing import Any

from gpt1_jax import errors

KINDS = ('classification', 'entailment', 'similarity', 'choice')
CLASS_METRICS = ('accuracy', 'f1', 'matthews')
VALUE_METRICS = ('pearson', 'spearman')

_OWN_FILES = {s: (f'{s}.jsonl',) for s in ('train', 'dev', 'test')}
_GLUE_FILES = {s: (f'{s}.tsv',) for s in ('train', 'dev', 'test')}


@dataclasses.dataclass(frozen=True)
class Task:
  """One row of the table; the defaults are those of a user's own task.

  Attributes:
    name: what the command line and the scores call it.
    kind: one of `KINDS`; decides the layout of the input (REFERENCE §2).
    labels: spelling of the classes in the files, in the order of the head's
      outputs. Empty is regression (a scalar head), except for choices, where
      it means that the label is the 0-based number of the right answer.
    metrics: names `train/metrics.py` knows; the best checkpoint is kept by
      the first.
    texts: columns of the texts: one for classification, two for entailment
      and similarity; context, or context and question, for choice.
    choices: column of the answers (choice only).
    label: column of the label.
    files: split -> file names, most wanted first. Splits that begin with
      `dev` are evaluated.
    folders: what the archive's folder or zip is called.
    columns: names of the columns of a table without a header.
    bounds: least and greatest value (regression only).
    synonyms: (spelling, label) pairs of archives that spell a label otherwise.
    unlabelled: labels that mean "none" in the training file, too.
    cut_rows: rows of the original file that lack cells are dropped and
      counted instead of refused.
    held_out: files of id pairs, columns `#1 ID` and `#2 ID`: where there is
      no dev file, the rows of the training file that make it.
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
  unlabelled: tuple[str, ...] = ()
  cut_rows: bool = False
  held_out: tuple[str, ...] = ()

  @property
  def regression(self) -> bool:
    return self.kind != 'choice' and not self.labels

  @property
  def num_outputs(self) -> int:
    """Width of the head: classes, or 1 for regression and choice."""
    return 1 if self.kind == 'choice' else max(1, len(self.labels))

  @property
  def dev_splits(self) -> tuple[str, ...]:
    """Splits to evaluate; the best checkpoint is kept by the first."""
    return tuple(split for split in self.files if split.startswith('dev'))


_SENTENCES = ('sentence1', 'sentence2')
# Label orders as in TFDS, so that both sources agree (REFERENCE §4).
_NLI = ('entailment', 'neutral', 'contradiction')
_RTE = ('entailment', 'not_entailment')
_BINARY = ('0', '1')


def _nli_files(stem: str) -> tuple[str, str]:
  return f'{stem}.txt', f'{stem}.jsonl'


# fmt: off
_ROWS = (
  Task('cola', 'classification', _BINARY, ('matthews', 'accuracy'),
       texts=('sentence',), files=_GLUE_FILES, folders=('CoLA',),
       columns=('source', 'label', 'mark', 'sentence')),
  Task('sst2', 'classification', _BINARY, texts=('sentence',),
       files=_GLUE_FILES, folders=('SST-2',)),
  Task('rte', 'entailment', _RTE, texts=_SENTENCES,
       files=_GLUE_FILES, folders=('RTE',)),
  Task('wnli', 'entailment', _BINARY, texts=_SENTENCES,
       files=_GLUE_FILES, folders=('WNLI',)),
  Task('qnli', 'entailment', _RTE, texts=('question', 'sentence'),
       files=_GLUE_FILES, folders=('QNLI', 'QNLIv2')),
  Task('mnli', 'entailment', _NLI, texts=_SENTENCES, label='gold_label',
       files={
         'train': ('train.tsv', *_nli_files('multinli_1.0_train')),
         'dev': ('dev_matched.tsv', *_nli_files('multinli_1.0_dev_matched')),
         'dev_mismatched': ('dev_mismatched.tsv',
                            *_nli_files('multinli_1.0_dev_mismatched')),
         'test': ('test_matched.tsv',),
         'test_mismatched': ('test_mismatched.tsv',),
       }, folders=('MNLI', 'multinli_1.0'), unlabelled=('-',)),
  Task('snli', 'entailment', _NLI, texts=_SENTENCES, label='gold_label',
       files={
         split: _nli_files(f'snli_1.0_{split}')
         for split in ('train', 'dev', 'test')
       }, folders=('snli_1.0', 'SNLI'), unlabelled=('-',)),
  Task('scitail', 'entailment', ('entails', 'neutral'), texts=_SENTENCES,
       label='gold_label', files={
         split: (f'scitail_1.0_{split}.tsv', f'scitail_1.0_{split}.txt',
                 f'scitail_1.0_structure_{split}.tsv')
         for split in ('train', 'dev', 'test')
       }, folders=('SciTailV1.1', 'tsv_format', 'snli_format',
                   'predictor_format', 'dgem_format'),
       columns=('sentence1', 'sentence2', 'gold_label'),
       synonyms=(('entailment', 'entails'),)),
  Task('mrpc', 'similarity', _BINARY, ('f1', 'accuracy'),
       texts=('#1 String', '#2 String'), label='Quality', files={
         'train': ('train.tsv', 'msr_paraphrase_train.txt', 'train'),
         'dev': ('dev.tsv',),
         'test': ('test.tsv', 'msr_paraphrase_test.txt', 'test'),
       }, folders=('MRPC',),
       held_out=('dev_ids.tsv', 'mrpc_dev_ids.tsv', 'dev_ids')),
  # GLUE's QQP files hold 22 rows broken in two; TFDS leaves them out, too.
  Task('qqp', 'similarity', _BINARY, ('f1', 'accuracy'),
       texts=('question1', 'question2'), label='is_duplicate',
       files=_GLUE_FILES, folders=('QQP', 'QQP-clean'), cut_rows=True),
  Task('stsb', 'similarity', (), ('pearson', 'spearman'),
       texts=_SENTENCES, label='score', files=_GLUE_FILES,
       folders=('STS-B',), bounds=(0.0, 5.0)),
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
  return _checked(fields)


def _checked(fields: dict[str, Any]) -> Task:
  """A user's own task, every field looked at."""
  kind = fields.get('kind')
  if kind not in KINDS:
    raise errors.UserError(
      f'config.task.kind is {kind!r}: choose one of {", ".join(KINDS)}'
    )
  for key in ('labels', 'metrics', 'texts', 'folders', 'columns', 'unlabelled'):
    if isinstance(fields.get(key, ()), str):
      raise errors.UserError(f'config.task.{key}: a tuple is wanted')
    if key in fields:
      fields[key] = tuple(str(value) for value in fields[key])
  labels = fields.get('labels', ())
  if len(set(labels)) < len(labels) or len(labels) == 1:
    raise errors.UserError(
      f'config.task.labels is {labels}: two or more different labels are '
      'wanted, or none for regression'
    )
  value = kind != 'choice' and not labels
  metrics = fields.setdefault(
    'metrics', VALUE_METRICS if value else ('accuracy',)
  )
  allowed = VALUE_METRICS if value else CLASS_METRICS
  if kind == 'choice' or len(labels) > 2:
    allowed = tuple(name for name in allowed if name != 'f1')
  for name in metrics or ('none',):
    if name not in allowed:
      raise errors.UserError(
        f'config.task.metrics: {name!r} does not fit this task, choose from '
        + ', '.join(allowed)
      )
  pair = kind in ('entailment', 'similarity')
  texts = fields.setdefault('texts', ('text', 'text_pair')[: 1 + pair])
  if len(texts) not in {'classification': (1,), 'choice': (1, 2)}.get(
    kind, (2,)
  ):
    raise errors.UserError(
      f'config.task.texts has {len(texts)} columns, too few or too many for '
      f'{kind}'
    )
  if 'files' in fields:
    fields['files'] = {s: tuple(n) for s, n in fields['files'].items()}
  return Task(**fields)
