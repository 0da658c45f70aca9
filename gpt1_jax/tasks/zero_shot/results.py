"""Reads and writes the files of a zero-shot evaluation.

WORKDIR/zero_shot.jsonl holds a row for each checkpoint and task,
WORKDIR/zero_shot/TASK-STEP.tsv every answer and the figures that decided it.
"""

import json
from collections.abc import Sequence

# pydantic rejects typing.TypedDict before Python 3.12.
from typing_extensions import TypedDict

from gpt1_jax import storage
from gpt1_jax.errors import UserError
from gpt1_jax.tasks.zero_shot import decisions, questions
from gpt1_jax.train.file_shapes import Count, Number

ROWS, ANSWERS = 'zero_shot.jsonl', 'zero_shot'


class ZeroShotScore(TypedDict):
  """The score of one task at one checkpoint, in a row of zero_shot.jsonl.

  Keys:
    tokens_seen: tokens of pretraining until then; None if unknown.
    task, metric, chance, reference, reference_source: see `ZeroShotTask`.
    normalised: score on a scale from chance (0) to reference (1); None
      without a reference.
    commit: commit of this project that computed the row.
  """

  step: Count
  tokens_seen: Count | None
  task: str
  metric: str
  score: Number
  examples: Count
  split: str
  chance: Number
  reference: Number | None
  reference_source: str
  normalised: Number | None
  commit: str | None


class ZeroShotRow(ZeroShotScore, decisions.Diagnostics):
  """A row of zero_shot.jsonl."""


def new_row(
  answers: decisions.Answers,
  step: int,
  tokens_seen: int | None,
  commit: str | None,
) -> ZeroShotRow:
  """Builds the row that records the score of the answers."""
  task = questions.TASKS[answers.task]
  normalised = None
  if task.reference is not None:
    normalised = (answers.score - task.chance) / (task.reference - task.chance)
  return {
    'step': step,
    'tokens_seen': tokens_seen,
    'task': task.name,
    'metric': task.metric,
    'score': answers.score,
    'examples': len(answers.predictions),
    'split': answers.questions.split,
    'chance': task.chance,
    'reference': task.reference,
    'reference_source': task.reference_source,
    'normalised': normalised,
    'commit': commit,
    **answers.diagnostics,
  }


def read_rows(workdir: str | storage.Path) -> list[ZeroShotRow]:
  """Reads zero_shot.jsonl of a run; empty if there is none.

  Raises:
    UserError: a line is not JSON.
  """
  path = storage.path(workdir) / ROWS
  if not path.exists():
    return []
  rows = []
  for number, line in enumerate(storage.read_bytes(path).splitlines(), 1):
    try:
      rows.append(json.loads(line))
    except (ValueError, RecursionError) as error:
      raise UserError(
        f'{path}:{number}: damaged ({error}); delete the file and evaluate '
        'again'
      ) from None
  return rows


def write(
  workdir: str,
  step: int,
  answers: Sequence[decisions.Answers],
  rows: Sequence[ZeroShotRow],
) -> None:
  """Writes the answers at a checkpoint, then merges its rows into the file.

  Rows of other steps and tasks stay.
  """
  folder = storage.path(workdir) / ANSWERS
  for part in answers:
    lines = ['index\tlabel\tprediction\tscores\n']
    for i, label in enumerate(part.questions.labels):
      compared = ' '.join(map(repr, part.compared[i].tolist()))
      lines.append(f'{i}\t{label}\t{part.predictions[i]}\t{compared}\n')
    storage.write_text(folder / f'{part.task}-{step}.tsv', ''.join(lines))
  merged = {
    (row['step'], row['task']): row for row in [*read_rows(workdir), *rows]
  }
  lines = [json.dumps(merged[key]) + '\n' for key in sorted(merged)]
  storage.write_text(storage.path(workdir) / ROWS, ''.join(lines))
