"""Runs → the tables of the report: Tables 2 to 5, and what was run.

A table is text in cells; `page.py` makes HTML and Markdown of it.
"""

import dataclasses
import pathlib
import statistics
from collections.abc import Sequence

from gpt1_jax.reporting import cells, paper, runs as runs_lib

_METRICS = {
  'accuracy': 'accuracy',
  'f1': 'F1',
  'matthews': 'Matthews',
  'pearson': 'Pearson',
  'spearman': 'Spearman',
}


@dataclasses.dataclass(frozen=True)
class Table:
  """A caption, the names of the columns, and rows of as many cells.

  Attributes:
    ours: number of the column that holds our scores, if one does; a row with
      the cell 'ours' is ours as a whole.
  """

  caption: str
  header: Sequence[str]
  rows: Sequence[Sequence[str]]
  ours: int | None = None


def metric_name(metric: str) -> str:
  return _METRICS.get(metric, metric)


def scores(
  caption: str,
  columns: Sequence[paper.Score],
  runs: Sequence[runs_lib.Run],
  origins: cells.Origins,
) -> Table:
  """Table 2, 3 or 4: a row for each of its columns; full models alone."""
  full = cells.chosen(runs, paper.FULL)
  rows = []
  for column in columns:
    run, split = _best_documented(column, full)
    ours, rest = cells.NOT_RUN, [cells.NOTHING] * len(cells.DETAILS)
    if run:
      rest = cells.details(run, split, origins)
      ours = run.state
      if split:
        ours = cells.percent(run.values(split, column.metric))
    first = [column.column, metric_name(column.metric), ours, rest[0]]
    earlier = f'{column.earlier:.1f}, {column.earlier_by}'
    rows.append([*first, f'{column.score:.1f}', earlier, *rest[1:]])
  if columns is paper.TABLE_4:
    rows.append(_glue(full))
  header = ('task', 'metric', 'ours', 'our split', 'GPT-1 (test)')
  header = (*header, 'best before (test)', *cells.DETAILS[1:])
  return Table(caption, header, rows, ours=2)


def ablations(runs: Sequence[runs_lib.Run]) -> Table:
  """Table 5: a row of the paper's and a row of ours for each model."""
  rows = []
  for variant, (average, row) in paper.TABLE_5.items():
    rows.append([variant, 'paper', *(f'{x:.1f}' for x in (average, *row))])
    found = cells.chosen(runs, variant)
    ours = [_ablated(found.get(task)) for task in paper.TABLE_5_TASKS]
    shown = [text for text, _ in ours]
    rows.append([variant, 'ours', _average([v for _, v in ours]), *shown])
  return Table(
    'Table 5. GPT-1: test sets. Ours: dev sets, listed below',
    ('model', 'of', 'average', *paper.TABLE_5_COLUMNS),
    rows,
  )


def ablation_runs(
  runs: Sequence[runs_lib.Run], origins: cells.Origins
) -> Table:
  """The runs behind our rows of Table 5."""
  rows = []
  for variant in paper.TABLE_5:
    found = cells.chosen(runs, variant)
    for task, column in zip(
      paper.TABLE_5_TASKS, paper.TABLE_5_COLUMNS, strict=True
    ):
      if task not in found:
        continue
      run = found[task]
      split = cells.split(run, '', _metric(task))
      rest = cells.details(run, split, origins)
      text, _ = _ablated(run)
      name = metric_name(_metric(task))
      rows.append([variant, column, name, text, *rest])
  return Table(
    'Our runs in Table 5',
    ('model', 'task', 'metric', 'ours', *cells.DETAILS),
    rows,
    ours=3,
  )


def pretraining(runs: Sequence[runs_lib.Run]) -> Table:
  """A row for the paper and one for each run of pretraining."""
  unknown = [cells.NOTHING] * 3
  given = [
    f'{paper.PARAMETERS:,}',
    f'≈ {cells.short(paper.UPDATES)}',
    f'≈ {cells.short(paper.TOKENS_SEEN)}',
    f'{paper.PERPLEXITY:.2f}',
  ]
  rows = [['GPT-1 (paper)', 'BooksCorpus', *given, *unknown[:2]]]
  for run in runs:
    if run.command == 'finetune':
      continue
    corpus = 'trained elsewhere'
    if run.command == 'pretrain':
      corpus = pathlib.Path(run.facts['config']['data']['path']).name
    figures = [run.state, *unknown]
    if run.command == 'convert':
      figures = [cells.NOTHING, *unknown]
    if run.scores:
      figures = [
        f'{run.scores["step"]:,}',
        f'{run.scores["tokens_seen"]:,}',
        f'{run.scores["eval_perplexity"]:.2f}',
        f'{run.scores["eval_word_perplexity"]:.2f}',
      ]
    size = f'{run.facts["parameters"]:,}'
    rows.append([run.name, corpus, size, *figures, run.commit])
  if len(rows) == 1:
    rows.append([cells.NOT_RUN, *[cells.NOTHING] * 7])
  header = (
    'run',
    'corpus',
    'parameters',
    'updates',
    'tokens seen',
    'perplexity a token',
    'perplexity a word',
    'commit',
  )
  return Table('Pretraining: perplexity on held-out text', header, rows)


def finetuning(runs: Sequence[runs_lib.Run], origins: cells.Origins) -> Table:
  """A row for each run of fine-tuning, in the order given."""
  rows = []
  for run in runs:
    if run.command != 'finetune':
      continue
    metric, split, text = cells.NOTHING, None, run.state
    if run.scores:
      metric, split = run.scores['metric'], run.scores['split']
      text = cells.percent(run.values(split, metric))
    rest = cells.details(run, split, origins)
    split, seeds, *which, name = rest
    first = (name, run.task, run.variant, metric_name(metric), text)
    start = cells.start(run, origins)
    rows.append([*first, split, seeds, start, *which, cells.settings(run)])
  header = ('run', 'task', 'model', 'metric', 'ours', 'split', 'seeds', 'from')
  header = (*header, *cells.DETAILS[2:-1], 'settings')
  return Table('All runs of fine-tuning', header, rows, ours=4)


def _best_documented(
  column: paper.Score, full: dict[str, runs_lib.Run]
) -> tuple[runs_lib.Run | None, str | None]:
  """The run of a column and the split its score is of."""
  for task, part in ((column.task, column.part), (column.instead, '')):
    run = full.get(task)
    split = cells.split(run, part, column.metric) if run else None
    if split:
      return run, split
  return full.get(column.task) or full.get(column.instead), None


def _metric(task: str) -> str:
  """Of a task of Table 5: that of its column in Table 2 or 4."""
  columns = (*paper.TABLE_2, *paper.TABLE_4)
  return next(c.metric for c in columns if c.task == task)


def _ablated(
  run: runs_lib.Run | None,
) -> tuple[str, list[float] | None]:
  """Text of a cell of Table 5 and its values; MNLI: the mean of both sets."""
  if run is None:
    return cells.NOT_RUN, None
  metric = _metric(run.task)
  split = cells.split(run, '', metric)
  if not split:
    return run.state, None
  values = run.values(split, metric)
  other = run.values(f'{split}_mismatched', metric)
  if other:
    values = [(a + b) / 2 for a, b in zip(values, other, strict=True)]
  return cells.percent(values), values


def _average(found: list[list[float] | None]) -> str:
  """The mean of the medians, if none of them is missing."""
  done = [statistics.median(values) for values in found if values]
  if len(done) < len(found):
    return cells.NOT_RUN
  return f'{100 * statistics.mean(done):.1f}'


def _glue(full: dict[str, runs_lib.Run]) -> list[str]:
  """The last column of Table 4; ours is the plain mean of Table 5's eight."""
  found = [_ablated(full.get(task))[1] for task in paper.TABLE_5_TASKS]
  first = ['GLUE', 'average', _average(found), cells.NOTHING]
  earlier = f'{paper.GLUE_EARLIER:.1f}, {paper.GLUE_EARLIER_BY}'
  rest = [cells.NOTHING] * (len(cells.DETAILS) - 1)
  return [*first, f'{paper.GLUE:.1f}', earlier, *rest]
