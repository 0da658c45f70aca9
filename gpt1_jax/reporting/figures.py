"""Builds both halves of Figure 2 (P §5), the training curves and the gains.

Each half of Figure 2 is a table of scores and the lines to draw from them.
"""

import dataclasses
import statistics
from collections.abc import Sequence

from gpt1_jax import storage
from gpt1_jax.reporting import cells, paper, plots, tables
from gpt1_jax.reporting.records import RunRecord, short_commit
from gpt1_jax.tasks.zero_shot import results

_HALVES = ('race_middle', 'race_high')


def layers(runs: Sequence[RunRecord]) -> tuple[tables.Table, list[plots.Line]]:
  """Builds Figure 2, left: dev score over the number of layers transferred.

  A line needs runs of one task that transferred some layers of one pretrained
  run; the full model is its right end.
  """
  groups = _group_by_origin(runs)
  several = len({start for _, start in groups}) > 1
  rows, lines = [], []
  for number, ((task, start), found) in enumerate(groups.items()):
    points, ends, name = [], [], ''
    for layer, run in sorted(found.items()):
      metric = run.scores['metric'] if run.scores else ''
      values = run.values('dev', metric)
      percents = [100 * value for value in values]
      points.append((layer, statistics.median(percents)))
      ends.append((min(percents), max(percents)))
      name = tables.metric_name(metric)
      row = {'task': task, 'ours': cells.percent(values), 'metric': name}
      row['layers transferred'] = f'{layer} of {run.depth}'
      rows.append(row | cells.details(run, 'dev', runs))
    label = f'{task}, {name}' + f', from {start.name}' * several
    lines.append(plots.Line(label, points, number, ends, marks=True))
  return tables.Table('Figure 2, left: layers transferred', rows), lines


def zero_shot(
  runs: Sequence[RunRecord],
) -> tuple[tables.Table, list[plots.Line]]:
  """Builds Figure 2, right: zero-shot scores over the updates of pretraining.

  The lines show all checkpoints, the table the last of each run and task. Lines
  of LSTMs are dashed.
  """
  found = [run for run in runs if run.zero_shot]
  colors: dict[str, int] = {}  # task -> score, the same in all runs
  rows, lines = [], []
  for run in found:
    series = _by_task(run.zero_shot)
    rows += [_zero_shot_row(run, each[-1]) for each in series.values()]
    for line in zero_shot_lines(run.zero_shot):
      color = colors.setdefault(line.label, len(colors))
      label = line.label if len(found) == 1 else f'{line.label}, {run.name}'
      lines.append(
        dataclasses.replace(line, label=label, color=color, dashed=run.is_lstm)
      )
  caption = 'Figure 2, right: zero-shot, last checkpoint'
  return tables.Table(caption, rows), lines


def zero_shot_lines(rows: Sequence[results.ZeroShotScore]) -> list[plots.Line]:
  """Returns a line of normalised scores for each task of one run.

  Omits tasks without a reference score, and the halves of RACE if the whole was
  scored.
  """
  series = _by_task([row for row in rows if row['normalised'] is not None])
  if 'race' in series:
    series = {task: s for task, s in series.items() if task not in _HALVES}
  return [
    plots.Line(
      task,
      [
        (r['step'], r['normalised'])
        for r in each
        if r['normalised'] is not None
      ],
      number,
      marks=True,
    )
    for number, (task, each) in enumerate(series.items())
  ]


def write_zero_shot_plot(workdir: str) -> None:
  """Draws the rows of WORKDIR/zero_shot.jsonl as WORKDIR/zero_shot.svg."""
  lines = zero_shot_lines(results.read_rows(workdir))
  svg = draw_zero_shot(lines, file=True)
  storage.write_text(storage.path(workdir) / 'zero_shot.svg', svg)


def draw_zero_shot(lines: Sequence[plots.Line], *, file: bool = False) -> str:
  """Draws Figure 2, right, for the page or for a separate file."""
  steps = [step for line in lines for step, _ in line.points]
  scales = plots.Scales(
    x='updates of pretraining',
    y='normalised score',
    log=bool(steps) and min(steps) > 0,  # a converted run is at update 0
    levels=((0, 'random guessing'), (1, 'state of the art before GPT-1')),
  )
  return plots.draw('zero-shot', lines, scales, file=file)


def gains(
  runs: Sequence[RunRecord],
) -> tuple[list[plots.Line], plots.Scales]:
  """Compares tasks with and without pretraining; each has a place on x.

  Beside them stand the best simple method and GPT-1 of the paper.
  """
  full = cells.chosen(runs, paper.FULL)
  scratch = cells.chosen(runs, paper.NO_PRETRAINING)
  order = dict.fromkeys([*paper.COLUMNS, *full])
  tasks = [task for task in order if task in full and _percents(full[task])]
  series: dict[str, dict[int, list[float]]] = {
    name: {}
    for name in (
      'from scratch',
      'pretrained',
      'best simple method',
      'GPT-1 (paper)',
    )
  }
  for place, task in enumerate(tasks):
    series['pretrained'][place] = _percents(full[task])
    if task in scratch:
      series['from scratch'][place] = _percents(scratch[task])
    if best := cells.best_simple(full[task]):
      series['best simple method'][place] = [100 * best[1]]
    column = paper.COLUMNS.get(task)
    scores = full[task].scores
    # A user's task may have the name of the paper's, and another metric.
    if column and scores and scores['metric'] == column.metric:
      series['GPT-1 (paper)'][place] = [column.score]
  lines = []
  for number, (label, found) in enumerate(series.items()):
    scored = {place: values for place, values in found.items() if values}
    if scored:
      beside = 0.15 * number - 0.225  # so that no mark hides another
      points = [(x + beside, statistics.median(y)) for x, y in scored.items()]
      ends = [(min(y), max(y)) for y in scored.values()]
      lines.append(
        plots.Line(label, points, number, ends, marks=True, joined=False)
      )
  names = [
    paper.COLUMNS[task].column.removesuffix('-m')
    if task in paper.COLUMNS
    else task
    for task in tasks
  ]
  return lines, plots.Scales('', 'score (%)', names=names)


def gains_plot(runs: Sequence[RunRecord]) -> str | None:
  """Draws the gains for a file; None if no task was learned."""
  lines, scales = gains(runs)
  return plots.draw('gains', lines, scales, file=True) if lines else None


def _percents(run: RunRecord) -> list[float]:
  """Returns the main score of each seed in percent; empty if unfinished."""
  if not run.scores:
    return []
  values = run.values(run.scores['split'], run.scores['metric'])
  return [100 * value for value in values]


LOSS = plots.Scales('updates', 'loss (nats)')


def pretraining_plot(runs: Sequence[RunRecord]) -> str | None:
  """Draws the losses of pretraining for a file; None if there are none."""
  lines = losses([run for run in runs if run.command == 'pretrain'])
  return plots.draw('losses', lines, LOSS, file=True) if lines else None


def losses(runs: Sequence[RunRecord]) -> list[plots.Line]:
  """Returns lines of the training loss and, dashed, the validation loss."""
  lines = []
  for number, run in enumerate(runs):
    if train := run.points('loss'):
      lines.append(plots.Line(run.name, train, number))
    if held_out := run.points('eval_loss'):
      label = f'{run.name}, validation'
      lines.append(plots.Line(label, held_out, number, marks=True, dashed=True))
  return lines


def _group_by_origin(
  runs: Sequence[RunRecord],
) -> dict[tuple[str, storage.Path], dict[int, RunRecord]]:
  """Groups runs: (task, pretrained run) -> layers transferred -> run."""
  groups: dict[tuple[str, storage.Path], dict[int, RunRecord]] = {}
  for wanted in (paper.LAYERS, paper.FULL):
    for run in runs:
      if run.command != 'finetune' or not run.scores or run.variant != wanted:
        continue
      start = storage.resolved(run.header['config']['init_from'])
      key = (run.task, start)
      if not run.values('dev', run.scores['metric']) or run.layers is None:
        continue
      if wanted == paper.FULL and key not in groups:
        continue
      group = groups.setdefault(key, {})
      other = group.setdefault(run.layers, run)
      if len(run.seeds) >= len(other.seeds):
        group[run.layers] = run
  return groups


def _by_task(
  rows: Sequence[results.ZeroShotScore],
) -> dict[str, list[results.ZeroShotScore]]:
  """Maps tasks to their rows by step; keeps the last row of each step."""
  found: dict[str, dict[int, results.ZeroShotScore]] = {}
  for row in rows:
    found.setdefault(row['task'], {})[row['step']] = row
  return {
    task: [each[step] for step in sorted(each)] for task, each in found.items()
  }


def _zero_shot_row(run: RunRecord, row: results.ZeroShotScore) -> cells.Row:
  reference = normalised = tokens = cells.NOTHING
  if row['reference'] is not None:
    reference = f'{100 * row["reference"]:.1f}, {row["reference_source"]}'
  if row['normalised'] is not None:
    normalised = f'{row["normalised"]:.3f}'
  if row['tokens_seen'] is not None:
    tokens = cells.short(row['tokens_seen'])
  return {
    'task': row['task'],
    'ours': cells.percent([row['score']]),
    'chance': f'{100 * row["chance"]:.1f}',
    'reference (1)': reference,
    'normalised': normalised,
    'metric': tables.metric_name(row['metric']),
    'split': f'{row["split"]}, {row["examples"]:,}',
    'updates': f'{row["step"]:,}',
    'tokens seen': tokens,
    'parameters': cells.short(run.header['parameters']),
    'commit': short_commit(row['commit']),
    'run': run.name,
  }
