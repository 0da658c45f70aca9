"""Builds the report's tables: Tables 2 to 5 and the lists of runs.

Cells are plain text; `page.py` renders them as HTML and Markdown.
"""

import dataclasses
import pathlib
import statistics
from collections.abc import Sequence

from gpt1_jax.reporting import cells, paper
from gpt1_jax.reporting.runs import RunRecord

_METRICS = {
  'accuracy': 'accuracy',
  'f1': 'F1',
  'matthews': 'Matthews',
  'pearson': 'Pearson',
  'spearman': 'Spearman',
}

_PAPER_ROW = [
  'GPT-1 (paper)',
  'BooksCorpus',
  f'{paper.PARAMETERS:,}',
  f'≈ {cells.short(paper.UPDATES)}',
  f'≈ {cells.short(paper.TOKENS_SEEN)}',
  f'{paper.PERPLEXITY:.2f}',
  cells.NOTHING,
  cells.NOTHING,
]
_PRETRAINING_HEADER = (
  'run',
  'corpus',
  'parameters',
  'updates',
  'tokens seen',
  'perplexity per token',
  'perplexity per word',
  'commit',
)


@dataclasses.dataclass(frozen=True)
class Table:
  """A table of text.

  Attributes:
    caption: its caption.
    header: names of the columns.
    rows: a cell for each column.
    ours: index of the column of our scores, which is highlighted; None if there
      is none. A row with a cell 'ours' is highlighted as a whole.
  """

  caption: str
  header: Sequence[str]
  rows: Sequence[Sequence[str]]
  ours: int | None = None


def metric_name(metric: str) -> str:
  """Returns the name of a metric as the paper writes it."""
  return _METRICS.get(metric, metric)


def scores(
  caption: str,
  columns: Sequence[paper.Score],
  runs: Sequence[RunRecord],
) -> Table:
  """Builds Table 2, 3 or 4 from full models, a row for each task.

  Args:
    caption: caption of the table.
    columns: the paper's scores; `paper.TABLE_4` adds the GLUE average.
    runs: all runs.
  """
  full = cells.chosen(runs, paper.FULL)
  rows = []
  for column in columns:
    run, split = _run_and_split(column, full)
    ours, rest = cells.NOT_RUN, [cells.NOTHING] * len(cells.DETAILS)
    if run:
      rest = cells.details(run, split, runs)
      ours = run.state
      if split:
        ours = cells.percent(run.values(split, column.metric))
    first = [column.column, metric_name(column.metric), ours, rest[0]]
    earlier = f'{column.earlier:.1f}, {column.earlier_by}'
    rows.append([*first, f'{column.score:.1f}', earlier, *rest[1:]])
  if columns is paper.TABLE_4:
    rows.append(_glue(full))
  header = ('task', 'metric', 'ours', 'our split', 'GPT-1 (test)')
  more = ('best before (test)', *cells.DETAILS[1:])
  return Table(caption, (*header, *more), rows, ours=2)


def ablations(runs: Sequence[RunRecord]) -> Table:
  """Builds Table 5: for each model a row of the paper and a row of ours."""
  rows = []
  for variant, (average, row) in paper.TABLE_5.items():
    rows.append([variant, 'paper', *(f'{x:.1f}' for x in (average, *row))])
    found = cells.chosen(runs, variant)
    ours = [found.get(task) for task in paper.TABLE_5_TASKS]
    rows.append([variant, 'ours', _average(ours), *map(_ablated_cell, ours)])
  return Table(
    'Table 5. GPT-1: test sets. Ours: dev sets, listed below',
    ('model', 'of', 'average', *paper.TABLE_5_COLUMNS),
    rows,
  )


def ablation_runs(runs: Sequence[RunRecord]) -> Table:
  """Lists the runs behind our rows of Table 5."""
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
      rest = cells.details(run, split, runs)
      name = metric_name(_metric(task))
      rows.append([variant, column, name, _ablated_cell(run), *rest])
  return Table(
    'Our runs in Table 5',
    ('model', 'task', 'metric', 'ours', *cells.DETAILS),
    rows,
    ours=3,
  )


def pretraining(runs: Sequence[RunRecord]) -> Table:
  """Lists the paper's pretraining, then our pretrained and converted runs."""
  rows = [_PAPER_ROW]
  for run in runs:
    if run.command == 'finetune':
      continue
    corpus, scores = 'trained elsewhere', [cells.NOTHING] * 4
    if run.command == 'pretrain':
      corpus = pathlib.Path(run.header['config']['data']['path']).name
      scores[0] = run.state
    if run.pretraining:
      scores = [
        f'{run.pretraining["step"]:,}',
        f'{run.pretraining["tokens_seen"]:,}',
        f'{run.pretraining["eval_perplexity"]:.2f}',
        f'{run.pretraining["eval_word_perplexity"]:.2f}',
      ]
    size = f'{run.header["parameters"]:,}'
    rows.append([run.name, corpus, size, *scores, run.commit])
  if len(rows) == 1:
    rows.append([cells.NOT_RUN, *[cells.NOTHING] * 7])
  caption = 'Pretraining: perplexity on held-out text'
  return Table(caption, _PRETRAINING_HEADER, rows)


def finetuning(runs: Sequence[RunRecord]) -> Table:
  """Lists all fine-tuning runs, in the order given."""
  rows = []
  for run in runs:
    if run.command != 'finetune':
      continue
    metric, split, text = cells.NOTHING, None, run.state
    if run.scores:
      metric, split = run.scores['metric'], run.scores['split']
      text = cells.percent(run.values(split, metric))
    place, seeds, *which, name = cells.details(run, split, runs)
    first = [name, run.task, run.variant, metric_name(metric), text]
    start = cells.start(run, runs)
    rows.append([*first, place, seeds, start, *which, cells.settings(run)])
  header = ('run', 'task', 'model', 'metric', 'ours', 'split', 'seeds', 'from')
  more = (*cells.DETAILS[2:-1], 'settings')
  return Table('All runs of fine-tuning', (*header, *more), rows, ours=4)


def _run_and_split(
  column: paper.Score, full: dict[str, RunRecord]
) -> tuple[RunRecord | None, str | None]:
  """Returns the run of a column and the split to show, None if unscored."""
  for task, suffix in ((column.task, column.suffix), (column.fallback, '')):
    run = full.get(task)
    split = cells.split(run, suffix, column.metric) if run else None
    if split:
      return run, split
  return full.get(column.task) or full.get(column.fallback), None


def _metric(task: str) -> str:
  """Returns the metric of a task of Table 5: that of Table 2 or 4."""
  columns = (*paper.TABLE_2, *paper.TABLE_4)
  return next(c.metric for c in columns if c.task == task)


def _ablated(run: RunRecord | None) -> list[float]:
  """Returns each seed's score in Table 5; MNLI averages its two sets."""
  if run is None:
    return []
  metric = _metric(run.task)
  split = cells.split(run, '', metric)
  if not split:
    return []
  values = run.values(split, metric)
  other = run.values(f'{split}_mismatched', metric) or values
  return [(a + b) / 2 for a, b in zip(values, other, strict=True)]


def _ablated_cell(run: RunRecord | None) -> str:
  if run is None:
    return cells.NOT_RUN
  values = _ablated(run)
  return cells.percent(values) if values else run.state


def _average(runs: Sequence[RunRecord | None]) -> str:
  """Formats the mean of the medians, if all runs are scored."""
  medians = [statistics.median(v) for v in map(_ablated, runs) if v]
  if len(medians) < len(runs):
    return cells.NOT_RUN
  return f'{100 * statistics.mean(medians):.1f}'


def _glue(full: dict[str, RunRecord]) -> list[str]:
  """Builds the GLUE row of Table 4; ours is the mean of Table 5's tasks."""
  average = _average([full.get(task) for task in paper.TABLE_5_TASKS])
  earlier = f'{paper.GLUE_EARLIER:.1f}, {paper.GLUE_EARLIER_BY}'
  rest = [cells.NOTHING] * (len(cells.DETAILS) - 1)
  first = ['GLUE', 'average', average, cells.NOTHING]
  return [*first, f'{paper.GLUE:.1f}', earlier, *rest]
