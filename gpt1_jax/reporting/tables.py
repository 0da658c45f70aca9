"""Builds the report's tables: our runs, and Tables 2 to 5 of the paper.

Cells are plain text; `page.py` renders them as HTML and Markdown.
"""

import dataclasses
import statistics
from collections.abc import Sequence

from gpt1_jax.reporting import cells, paper
from gpt1_jax.reporting.cells import Row
from gpt1_jax.reporting.records import RunRecord

_METRICS = {
  'f1': 'F1',
  'matthews': 'Matthews',
  'pearson': 'Pearson',
  'spearman': 'Spearman',
}
# Names of a pretraining run's measures in metrics.jsonl and scores.json.
_PERPLEXITY = {
  'perplexity per token': 'eval_perplexity',
  'perplexity per word': 'eval_word_perplexity',
}
_PAPER_ROW: Row = {
  'run': 'GPT-1 (paper)',
  'perplexity per token': f'{paper.PERPLEXITY:.2f}',
  'corpus': 'BooksCorpus',
  'updates': f'≈ {cells.short(paper.UPDATES)}',
  'tokens seen': f'≈ {cells.short(paper.TOKENS_SEEN)}',
  'parameters': f'{paper.PARAMETERS:,}',
}


@dataclasses.dataclass(frozen=True)
class Table:
  """A table of text. Columns named 'ours' or 'score' hold our scores.

  Attributes:
    rows: column -> cell; a column that a row lacks is empty.
    folded: rows without a run; the page shows them on request.
  """

  caption: str
  rows: Sequence[Row]
  folded: Sequence[Row] = ()

  @property
  def header(self) -> list[str]:
    """Names of the columns, in the order of the rows that have them."""
    return list(dict.fromkeys(key for row in self.rows for key in row))


def metric_name(metric: str) -> str:
  """Returns the name of a metric as the paper writes it."""
  return _METRICS.get(metric, metric)


def overview(runs: Sequence[RunRecord]) -> Table:
  """Lists every run with its main score; if unfinished, the latest one."""
  rows = []
  for run in sorted(runs, key=lambda run: run.command == 'finetune'):
    if run.command == 'finetune':
      origin = cells.start(run, runs)
      score, measure = _tuning_score(run)
      simple = cells.simple_method(run)
      about = f'{run.task}: from {origin}'
    else:
      simple, about = {}, 'converted'
      if run.command == 'pretrain':
        corpus = cells.corpus(run)
        about = f'pretrained on {corpus}' if corpus else 'pretrained'
      score, measure = _perplexity(run, 'perplexity per token'), ''
      if score != cells.NOTHING:
        measure = 'perplexity per token'
    row = {'run': run.name, 'score': score, 'measure': measure} | simple
    rows.append(row | {'what it is': about, 'state': run.state})
  return Table('All runs, with the main score of each', rows)


def scores(
  caption: str, columns: Sequence[paper.Score], runs: Sequence[RunRecord]
) -> Table:
  """Builds Table 2, 3 or 4 from full models, a row for each task.

  Args:
    columns: the paper's scores; `paper.TABLE_4` adds the GLUE average.
  """
  full = cells.chosen(runs, paper.FULL)
  rows: list[Row] = []
  folded: list[Row] = []
  for column in columns:
    run, split = _run_and_split(column, full)
    row = {
      'task': column.column,
      'ours': cells.NOT_RUN,
      'GPT-1 (test)': f'{column.score:.1f}',
      'metric': metric_name(column.metric),
      'best before (test)': f'{column.earlier:.1f}, {column.earlier_by}',
    }
    if run:
      values = run.values(split, column.metric) if split else []
      row['ours'] = cells.percent(values) if values else run.state
      if run.is_own_task:
        row['task'] += ', own files'
      row |= cells.simple_method(run)
      row |= cells.details(run, split, runs)
    (rows if run else folded).append(row)
  if columns is paper.TABLE_4:
    row = _glue(full)
    (folded if row['ours'] == cells.NOT_RUN else rows).append(row)
  return Table(caption, rows, folded)


def ablations(runs: Sequence[RunRecord]) -> Table:
  """Builds Table 5: for each model a row of the paper and a row of ours."""
  rows: list[Row] = []
  folded: list[Row] = []
  for variant, (average, scored) in paper.TABLE_5.items():
    found = cells.chosen(runs, variant)
    ours = [found.get(task) for task in paper.TABLE_5_TASKS]
    for name, texts in (
      ('ours', [_average(ours), *map(_ablated_cell, ours)]),
      ('paper', [f'{x:.1f}' for x in (average, *scored)]),
    ):
      columns = ('average', *paper.TABLE_5_COLUMNS)
      row = {'model': variant, 'of': name}
      row |= dict(zip(columns, texts, strict=True))
      (rows if any(ours) else folded).append(row)
  caption = 'Table 5, ablations. GPT-1: test sets. Ours: dev sets, listed below'
  return Table(caption, rows, folded)


def ablation_runs(runs: Sequence[RunRecord]) -> Table:
  """Lists the runs behind our rows of Table 5."""
  rows = []
  for variant in paper.TABLE_5:
    found = cells.chosen(runs, variant)
    for task, column in zip(
      paper.TABLE_5_TASKS, paper.TABLE_5_COLUMNS, strict=True
    ):
      if run := found.get(task):
        metric = _metric(task)
        row = {'model': variant, 'task': column, 'ours': _ablated_cell(run)}
        row['metric'] = metric_name(metric)
        row |= cells.simple_method(run)
        split = cells.split(run, '', metric)
        rows.append(row | cells.details(run, split, runs))
  return Table('Our runs in Table 5', rows)


def pretraining(runs: Sequence[RunRecord]) -> Table:
  """Lists our pretrained and converted runs, then the paper's pretraining."""
  rows: list[Row] = []
  for run in runs:
    if run.command == 'finetune':
      continue
    done = run.pretraining
    row = {'run': run.name}
    row |= {name: _perplexity(run, name) for name in _PERPLEXITY}
    row |= _bits_per_byte(run)
    row |= {
      'corpus': cells.corpus(run),
      'updates': f'{done["step"]:,}' if done else run.state,
      'tokens seen': f'{done["tokens_seen"]:,}' if done else cells.NOTHING,
      'parameters': f'{run.header["parameters"]:,}',
      'commit': run.commit,
    }
    if run.command == 'convert':
      row['updates'] = cells.NOTHING
    rows.append(row)
  rows = [*rows, _PAPER_ROW] if rows else []
  return Table('Pretraining: perplexity on held-out text', rows)


def finetuning(runs: Sequence[RunRecord]) -> Table:
  """Lists all fine-tuning runs, in the order given."""
  rows = []
  for run in runs:
    if run.command == 'finetune':
      score, _ = _tuning_score(run)
      metric, split = cells.NOTHING, None
      if run.scores:
        metric, split = run.scores['metric'], run.scores['split']
      row = {'run': run.name, 'ours': score, 'task': run.task}
      row |= {'model': run.variant, 'metric': metric_name(metric)}
      row |= cells.simple_method(run)
      row |= {'from': cells.start(run, runs), 'state': run.state}
      row |= cells.details(run, split, runs)
      rows.append(row | {'settings': cells.settings(run)})
  return Table('All runs of fine-tuning', rows)


def _perplexity(run: RunRecord, name: str) -> str:
  """Formats a perplexity; if the run is unfinished, the latest one."""
  key = _PERPLEXITY[name]
  if run.pretraining:
    return f'{run.pretraining[key]:.2f}'  # type: ignore[literal-required]
  points = run.points(key)
  return f'{points[-1][1]:.2f} so far' if points else cells.NOTHING


def _bits_per_byte(run: RunRecord) -> Row:
  """Returns a cell like `_perplexity`; {} if bytes were not counted."""
  name = 'eval_bits_per_byte'
  if run.pretraining:
    bits = run.pretraining.get(name)
    return {} if bits is None else {'bits per byte': f'{bits:.3f}'}
  points = run.points(name)
  return {'bits per byte': f'{points[-1][1]:.3f} so far'} if points else {}


def _tuning_score(run: RunRecord) -> tuple[str, str]:
  """Returns a fine-tuning run's score and its description.

  An unfinished run shows its last evaluation, if there is one.
  """
  if run.scores:
    metric, split = run.scores['metric'], run.scores['split']
    values = run.values(split, metric)
    if values:
      measure = f'{metric_name(metric)} (%) on {run.examples(split)} examples'
      return cells.percent(values), measure
  names = dict.fromkeys(key for row in run.metrics for key in row)
  for name in names:
    metric = name.removeprefix('eval_')
    if metric not in (name, 'loss') and (points := run.points(name)):
      score = cells.percent([points[-1][1]])
      return f'{score} so far', f'{metric_name(metric)} (%) on dev'
  return cells.NOTHING, ''


def _run_and_split(
  column: paper.Score, full: dict[str, RunRecord]
) -> tuple[RunRecord | None, str | None]:
  """Returns the run of a column and the split to show, None if unscored.

  A run that was scored, but not on the column's split, is no run of the column.
  """
  for task, suffix in ((column.task, column.suffix), (column.fallback, '')):
    run = full.get(task)
    split = cells.split(run, suffix, column.metric) if run else None
    if split:
      return run, split
  run = full.get(column.task) or full.get(column.fallback)
  elsewhere = run and cells.split(run, '', column.metric)
  return (None if elsewhere else run), None


def _metric(task: str) -> str:
  """Returns the metric of a task in Table 5, the same as in Table 2 or 4."""
  columns = (*paper.TABLE_2, *paper.TABLE_4)
  return next(c.metric for c in columns if c.task == task)


def _ablated(run: RunRecord | None) -> list[float]:
  """Returns each seed's score for Table 5; MNLI is the mean of its two sets."""
  metric = _metric(run.task) if run else ''
  split = cells.split(run, '', metric) if run else None
  if not run or not split:
    return []
  values = run.values(split, metric)
  other = run.values(f'{split}_mismatched', metric) or values
  return [(a + b) / 2 for a, b in zip(values, other, strict=False)]


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


def _glue(full: dict[str, RunRecord]) -> Row:
  """Builds the GLUE row of Table 4; ours is the mean of Table 5's tasks."""
  return {
    'task': 'GLUE',
    'ours': _average([full.get(task) for task in paper.TABLE_5_TASKS]),
    'GPT-1 (test)': f'{paper.GLUE:.1f}',
    'metric': 'average',
    'best before (test)': f'{paper.GLUE_EARLIER:.1f}, {paper.GLUE_EARLIER_BY}',
  }
