"""Defines `Task`: the inputs, labels, metrics and files of a task.

`table.py` holds the tasks this package knows; a user describes another one in
a configuration (`task_settings.OwnTask`).
"""

import dataclasses
from collections.abc import Mapping

from gpt1_jax.errors import UserError
from gpt1_jax.task_settings import label_key

# Number of texts an example of each kind may have.
KINDS: dict[str, tuple[int, ...]] = {
  'classification': (1,),
  'entailment': (2,),
  'similarity': (2,),
  'choice': (1, 2),
}
CLASS_METRICS: tuple[str, ...] = ('accuracy', 'f1', 'matthews')
VALUE_METRICS: tuple[str, ...] = ('pearson', 'spearman')
OWN_FILES = {
  split: tuple(f'{split}.{form}' for form in ('jsonl', 'csv', 'tsv'))
  for split in ('train', 'dev', 'test')
}


@dataclasses.dataclass(frozen=True)
class Task:
  """Describes one task; the defaults suit a user's own task.

  Attributes:
    name: name on the command line and in scores.json.
    kind: a key of `KINDS`; selects the input layout (docs/reference.md §2).
    labels: class names as the files spell them, in the order of the head's
      outputs. Empty means regression (a scalar head), except for choice,
      where it means that a label is the 0-based number of the right answer.
    metrics: names of `metrics.score`; the first selects the best checkpoint.
    texts: columns of the texts: one for classification, two for entailment
      and similarity; context, or context and question, for choice.
    choices: column of the answers (choice only).
    files: split -> file names in order of preference; a name may be a glob
      pattern. Splits named `dev*` are evaluated during training, splits named
      `test*` once at the end.
    folders: names of the folder or archive that holds the files.
    columns: column names of a table without a header.
    bounds: least and greatest value (regression only).
    synonyms: (spelling, label) pairs for files that spell a label otherwise.
    cut_rows: True drops rows with too few or too many cells instead of refusing
      the file.
    label_last: True takes the label of a row that is longer than the header
      from its last cell (GLUE's SNLI) instead of refusing the row.
    layout: 'rows'; 'stories' for the columns of Story Cloze; 'articles' for
      the JSON files of RACE, where a split is all files of all its patterns.
    dev_share: share of the rows to use as dev, if train and dev are one file.
    held_out: names of a file of id pairs (columns `#1 ID`, `#2 ID`); without
      a dev file, these rows of the training file are dev.
    tfds: split -> addresses in TFDS, each 'NAME[/CONFIG]:SPLIT'.
    tfds_texts: TFDS's names for `texts`, where they differ.
    submission: split -> name of the file the GLUE server expects.
    own: True for a user's task, whose labels are config.task.labels.

  Raises:
    UserError: fields contradict each other; names the key under config.task.
  """

  name: str
  kind: str
  labels: tuple[str, ...] = ()
  metrics: tuple[str, ...] = ('accuracy',)
  texts: tuple[str, ...] = ('text',)
  choices: str = 'choices'
  label: str = 'label'
  files: Mapping[str, tuple[str, ...]] = dataclasses.field(
    default_factory=lambda: OWN_FILES, hash=False
  )
  folders: tuple[str, ...] = ()
  columns: tuple[str, ...] = ()
  bounds: tuple[float, float] | None = None
  synonyms: tuple[tuple[str, str], ...] = ()
  cut_rows: bool = False
  label_last: bool = False
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
  own: bool = False

  def __post_init__(self) -> None:
    keys = set(map(label_key, self.labels))
    if len(keys) < len(self.labels) or len(keys) == 1:
      raise UserError(
        f'config.task.labels is {self.labels}: give two or more different '
        'labels, or none for regression'
      )
    allowed = VALUE_METRICS if self.regression else CLASS_METRICS
    if self.kind == 'choice' or len(self.labels) > 2:
      allowed = tuple(name for name in allowed if name != 'f1')
    for name in self.metrics or ('none',):
      if name not in allowed:
        raise UserError(
          f'config.task.metrics: {name!r} does not fit this task; choose from '
          + ', '.join(allowed)
        )
    if self.bounds and self.bounds[0] >= self.bounds[1]:
      raise UserError(
        f'config.task.bounds is {self.bounds}: the first must be the lower'
      )
    if len(self.texts) not in KINDS[self.kind]:
      raise UserError(
        f'config.task.texts has {len(self.texts)} columns; {self.kind} takes '
        + ' or '.join(map(str, KINDS[self.kind]))
      )

  @property
  def regression(self) -> bool:
    """True if the label is a number to predict, not a class or an answer."""
    return self.kind != 'choice' and not self.labels

  @property
  def num_outputs(self) -> int:
    """Width of the head: classes, or 1 for regression and choice."""
    return 1 if self.kind == 'choice' else max(1, len(self.labels))

  @property
  def whole_numbers(self) -> tuple[int, ...]:
    """Whole numbers within the bounds, for a head with one output per number.

    Raises:
      UserError: there are no bounds, or they are not whole numbers.
    """
    low, high = self.bounds or (0.5, 0.5)
    if not self.regression or low % 1 or high % 1 or high <= low:
      raise UserError(
        f'task {self.name}: config.head.regression=classes requires a '
        'regression task with whole numbers as config.task.bounds'
      )
    return tuple(range(int(low), int(high) + 1))

  @property
  def folder_names(self) -> tuple[str, ...]:
    """Names of the folder or archive with the files; by default the task's."""
    return self.folders or (self.name,)

  @property
  def dev_splits(self) -> tuple[str, ...]:
    """Splits to evaluate; the first selects the best checkpoint."""
    return tuple(split for split in self.files if split.startswith('dev'))

  @property
  def test_splits(self) -> tuple[str, ...]:
    """Splits to evaluate at the end, or to predict if labels are hidden."""
    return tuple(split for split in self.files if split.startswith('test'))
