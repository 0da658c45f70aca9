"""Runs → the two halves of Figure 2 (P §5) and the curves of training.

Each half is lines for `plots.py` and a table of the figures behind them.
"""

import dataclasses
import statistics
from collections.abc import Mapping, Sequence
from typing import Any

from gpt1_jax import storage
from gpt1_jax.reporting import cells, paper, plots, runs as runs_lib, tables
from gpt1_jax.tasks.zero_shot import results

_HALVES = ('race_middle', 'race_high')


def layers(
  runs: Sequence[runs_lib.Run], origins: cells.Origins
) -> tuple[tables.Table, list[plots.Line]]:
  """Figure 2, left: dev score over the number of layers transferred.

  The full model stands at the right end, where some of its layers were
  transferred from the same run for the same task.
  """
  groups: dict[tuple[str, storage.Path], dict[int, runs_lib.Run]] = {}
  for wanted in (runs_lib.LAYERS, paper.FULL):
    for run in runs:
      if run.command != 'finetune' or not run.scores or run.variant != wanted:
        continue
      start = storage.resolved(run.facts['config']['init_from'])
      where = (run.task, start)
      if wanted == runs_lib.LAYERS or where in groups:
        group = groups.setdefault(where, {})
        there = group.setdefault(run.layers, run)
        if len(run.seeds) >= len(there.seeds):
          group[run.layers] = run
  sources = {start for _, start in groups}
  rows, lines = [], []
  for number, ((task, start), found) in enumerate(groups.items()):
    points, ends = [], []
    for layer, run in sorted(found.items()):
      metric = run.scores['metric']
      values = [100 * value for value in run.values('dev', metric)]
      points.append((layer, statistics.median(values)))
      ends.append((min(values), max(values)))
      name = tables.metric_name(metric)
      text = cells.percent(run.values('dev', metric))
      count = f'{layer} of {run.depth}'
      details = cells.details(run, 'dev', origins)
      rows.append([task, count, name, text, *details])
    label = f'{task}, {tables.metric_name(metric)}'
    if len(sources) > 1:
      label += f', from {start.name}'
    lines.append(plots.Line(label, points, number, ends, marks=True))
  header = ('task', 'layers transferred', 'metric', 'ours', *cells.DETAILS)
  table = tables.Table(
    'Figure 2, left: layers transferred', header, rows, ours=3
  )
  return table, lines


def zero_shot(
  runs: Sequence[runs_lib.Run],
) -> tuple[tables.Table, list[plots.Line]]:
  """Figure 2, right: zero-shot scores along pretraining.

  The lines have all checkpoints, the table the last one of each run and task.
  LSTMs are dashed.
  """
  found = [run for run in runs if run.zero_shot]
  colors: dict[str, int] = {}  # of a task, whatever the run
  rows, lines = [], []
  for run in found:
    series = _by_task(run.zero_shot)
    rows += [_zero_shot_row(run, each[-1]) for each in series.values()]
    for line in zero_shot_lines(run.zero_shot):
      color = colors.setdefault(line.label, len(colors))
      label = line.label if len(found) == 1 else f'{line.label}, {run.name}'
      lstm = run.facts['model'].get('kind') == 'lstm'
      lines.append(
        dataclasses.replace(line, label=label, color=color, dashed=lstm)
      )
  header = (
    'task',
    'metric',
    'split',
    'chance',
    'reference (1)',
    'ours',
    'normalised',
    'updates',
    'tokens seen',
    'parameters',
    'commit',
    'run',
  )
  table = tables.Table(
    'Figure 2, right: zero-shot, last checkpoint', header, rows, ours=5
  )
  return table, lines


def zero_shot_lines(rows: Sequence[Mapping[str, Any]]) -> list[plots.Line]:
  """One run's rows of zero_shot.jsonl → normalised scores over updates.

  Without a line are tasks that have no reference, and RACE's halves where the
  whole is there.
  """
  series = _by_task([row for row in rows if row['normalised'] is not None])
  if 'race' in series:
    series = {task: s for task, s in series.items() if task not in _HALVES}
  return [
    plots.Line(
      task, [(r['step'], r['normalised']) for r in each], number, marks=True
    )
    for number, (task, each) in enumerate(series.items())
  ]


def write_zero_shot_plot(workdir: str) -> None:
  """Draws WORKDIR/zero_shot.svg from the rows of zero_shot.jsonl."""
  lines = zero_shot_lines(results.read_rows(workdir))
  svg = draw_zero_shot(lines, file=True)
  storage.write_text(storage.path(workdir) / 'zero_shot.svg', svg)


def draw_zero_shot(lines: Sequence[plots.Line], *, file: bool = False) -> str:
  """Figure 2, right, for the page or as a file of its own."""
  steps = [step for line in lines for step, _ in line.points]
  return plots.draw(
    'zero-shot',
    lines,
    x='updates of pretraining',
    y='normalised score',
    log=bool(steps) and min(steps) > 0,  # a converted run has no updates
    levels=((0, 'random guessing'), (1, 'state of the art before GPT-1')),
    file=file,
  )


def losses(runs: Sequence[runs_lib.Run]) -> list[plots.Line]:
  """Training loss, and on held-out text with marks."""
  lines = []
  for number, run in enumerate(runs):
    train = [(r['step'], r['loss']) for r in run.rows if 'loss' in r]
    held_out = [
      (r['step'], r['eval_loss']) for r in run.rows if 'eval_loss' in r
    ]
    if train:
      lines.append(plots.Line(run.name, train, number))
    if held_out:
      label = f'{run.name}, validation'
      lines.append(plots.Line(label, held_out, number, marks=True, dashed=True))
  return lines


def _by_task(
  rows: Sequence[Mapping[str, Any]],
) -> dict[str, list[Mapping[str, Any]]]:
  """Task → its rows by step; of two for one step, the later written."""
  found: dict[str, dict[int, Mapping[str, Any]]] = {}
  for row in rows:
    found.setdefault(row['task'], {})[row['step']] = row
  return {
    task: [each[step] for step in sorted(each)] for task, each in found.items()
  }


def _zero_shot_row(run: runs_lib.Run, row: dict[str, Any]) -> list[str]:
  reference = normalised = tokens = cells.NOTHING
  if row['reference'] is not None:
    reference = f'{100 * row["reference"]:.1f}, {row["reference_source"]}'
    normalised = f'{row["normalised"]:.3f}'
  if row['tokens_seen'] is not None:
    tokens = cells.short(row['tokens_seen'])
  return [
    row['task'],
    tables.metric_name(row['metric']),
    f'{row["split"]}, {row["examples"]:,}',
    f'{100 * row["chance"]:.1f}',
    reference,
    cells.percent([row['score']]),
    normalised,
    f'{row["step"]:,}',
    tokens,
    cells.short(run.facts['parameters']),
    runs_lib.short_commit(row.get('commit')),
    run.name,
  ]
