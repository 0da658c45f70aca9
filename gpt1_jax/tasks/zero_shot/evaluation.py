"""The zero-shot suite of a run: one checkpoint, or all of them (P §5).

Writes, checkpoint by checkpoint, WORKDIR/zero_shot.jsonl (a row a step and
task), WORKDIR/zero_shot/TASK-STEP.tsv (every answer and what it was chosen
by) and WORKDIR/zero_shot.svg. What was there of other steps and tasks stays.
"""

import json
import sys
from collections.abc import Iterable, Sequence
from typing import Any

import jax

from gpt1_jax import progress, storage
from gpt1_jax.corpus import tokenization
from gpt1_jax.errors import UserError
from gpt1_jax.model import models
from gpt1_jax.reporting import figures
from gpt1_jax.tasks.readers import archives, sources
from gpt1_jax.tasks.zero_shot import candidates, decisions, likelihood
from gpt1_jax.train import checkpoint, run as run_lib, sharding

ROWS, ANSWERS, PLOT = 'zero_shot.jsonl', 'zero_shot', 'zero_shot.svg'
_HALVES = ('race_middle', 'race_high')


def evaluate(
  workdir: str,
  path: str,
  names: Sequence[str],
  steps: Sequence[int | None],
  batch_size: int,
) -> list[dict[str, Any]]:
  """Scores checkpoints of a run and writes what the module says.

  Args:
    workdir: the run.
    path: the folder, zip or tar that holds the tasks, or `tfds[:FOLDER]`.
    names: of `zero_shot.TASKS`, all of which must be found; empty: those that
      are found, and a line for each that is not.
    steps: checkpoints, in order; None: the best or the latest.
    batch_size: sequences at a time on one device.

  Returns:
    The new rows.

  Raises:
    UserError: an unknown task, one that is not found, a file that is not as
      it should be, a checkpoint that is not there or has diverged.
  """
  params, meta, step = checkpoint.read(workdir, steps[0])
  config = meta.model
  questions = read(path, names, tokenization.load(workdir), config.n_ctx)
  packed, firsts = candidates.pack(questions, config.n_ctx)
  mesh = sharding.make_mesh(jax.devices(), data=-1, fsdp=1, tensor=1)
  batch_size *= jax.device_count()
  sequences = likelihood.Sequences(
    packed, firsts, batch_size, sharding.host_rows(mesh, batch_size)
  )
  rows, commit = [], run_lib.commit()
  with (
    sharding.use(mesh),
    progress.Progress(
      'zero-shot',
      sequences.num_sequences * len(steps),
      'sequences',
      'tokens/s',
      on=jax.process_index() == 0,
    ) as bar,
  ):
    score = likelihood.score_fn(models.new(config), mesh)
    for number, wanted in enumerate(steps):
      if number:
        params, _, step = checkpoint.read(workdir, wanted)
      sums = score(
        params['gpt'], sequences, lambda count, t: bar.add(count, count, t)
      )
      results = decisions.decide(questions, sums, sequences.counts)
      facts = {'tokens_seen': tokens_seen(workdir, step), 'commit': commit}
      new = [
        _row(result, step, facts)
        for result in results
        if result.task in candidates.TASKS
      ]
      rows += new
      if jax.process_index() == 0:
        _write(storage.path(workdir), new, results, step)
  return rows


def read(
  path: str,
  names: Sequence[str],
  tokenizer: tokenization.Tokenizer,
  n_ctx: int,
) -> list[candidates.Questions]:
  """The questions of the tasks asked for, or of those that are found.

  Raises:
    UserError: see `evaluate`; messages name --tasks_path.
  """
  for name in names:
    if name not in candidates.TASKS:
      raise UserError(
        f'--tasks: no zero-shot task {name!r}; known are '
        + ', '.join(candidates.TASKS)
      )
  try:
    if sources.tfds_folder(path) is None:
      folder = sources.folder_of(path)
      if not folder.is_dir():  # raises, if it is not there or no archive
        archives.find(folder, ('*',), ())
    found = _found(path, names)
    questions = [
      part
      for name in found
      for part in candidates.read(name, path, tokenizer.encode, n_ctx)
    ]
  except UserError as error:
    # The readers are those of `finetune`.
    message = str(error).replace('config.data.path', '--tasks_path')
    raise UserError(message) from None
  for part in questions:
    for line in part.odd:
      _say(f'left out: {line}')
    if part.cut:
      _say(
        f'{part.task} {part.split}: {part.cut} of {len(part.labels)} examples '
        'cut to fit the context'
      )
  return questions


def tokens_seen(workdir: str, step: int) -> int | None:
  """Tokens that a pretraining run had seen at a step; None if unknown."""
  facts = run_lib.load(workdir)
  if facts['command'] != 'pretrain':
    return None
  return step * facts['config']['data']['batch_size'] * facts['model']['n_ctx']


def read_rows(workdir: str | storage.Path) -> list[dict[str, Any]]:
  """Rows of a run's zero_shot.jsonl, by step and task; none: no such file.

  Raises:
    UserError: it is damaged.
  """
  path = storage.path(workdir) / ROWS
  if not path.exists():
    return []
  rows = []
  lines = path.read_text(encoding='utf-8').splitlines()
  for number, line in enumerate(lines, 1):
    try:
      rows.append(json.loads(line))
    except ValueError as error:
      raise UserError(
        f'{path}:{number}: damaged ({error}); remove it and run it again'
      ) from None
  return rows


def _found(path: str, names: Sequence[str]) -> list[str]:
  """The tasks to run; RACE's halves are part of `race`."""
  found, reasons = [], []
  for name in names or candidates.TASKS:
    if name in found or (name in _HALVES and 'race' in (*found, *names)):
      continue
    reason = candidates.missing(name, path)
    if reason is None:
      found.append(name)
    elif names:
      raise UserError(reason)
    elif reason not in reasons:  # that of `race` is that of a half of it
      reasons.append(reason)
      _say(f'not run: {reason}')
  if not found:
    raise UserError(
      f'{path}: no zero-shot task found here; set --tasks_path to a folder '
      'with one of ' + ', '.join(candidates.TASKS)
    )
  return found


def _row(
  result: decisions.Result, step: int, facts: dict[str, Any]
) -> dict[str, Any]:
  task = candidates.TASKS[result.task]
  normalised = None
  if task.reference is not None:
    normalised = (result.score - task.chance) / (task.reference - task.chance)
  return {
    'step': step,
    'tokens_seen': facts['tokens_seen'],
    'task': task.name,
    'metric': task.metric,
    'score': result.score,
    'examples': len(result.labels),
    'split': result.split,
    'chance': task.chance,
    'reference': task.reference,
    'reference_source': task.reference_source,
    'normalised': normalised,
    'commit': facts['commit'],
    **result.facts,
  }


def _write(
  workdir: storage.Path,
  new: Sequence[dict[str, Any]],
  results: Iterable[decisions.Result],
  step: int,
) -> None:
  """Answers first; a row is there only when they are."""
  for result in results:
    lines = ['index\tlabel\tprediction\tscores\n']
    for i, label in enumerate(result.labels):
      compared = ' '.join(repr(float(x)) for x in result.compared[i])
      lines.append(f'{i}\t{label}\t{result.predictions[i]}\t{compared}\n')
    storage.write_text(
      workdir / ANSWERS / f'{result.task}-{step}.tsv', ''.join(lines)
    )
  rows = {(row['step'], row['task']): row for row in read_rows(workdir)}
  rows |= {(row['step'], row['task']): row for row in new}
  ordered = [rows[key] for key in sorted(rows)]
  storage.write_text(
    workdir / ROWS, ''.join(json.dumps(row) + '\n' for row in ordered)
  )
  plot = figures.draw_zero_shot(figures.zero_shot_lines(ordered), file=True)
  storage.write_text(workdir / PLOT, plot)


def _say(line: str) -> None:
  if jax.process_index() == 0:
    print(line, file=sys.stderr, flush=True)
