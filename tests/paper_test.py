"""Checks the paper's figures against a second copy and docs/reference.md."""

import pathlib
import re
import statistics

import pytest

from gpt1_jax.reporting import paper
from gpt1_jax.tasks import table
from gpt1_jax.tasks.zero_shot import questions

# Column, GPT-1, best earlier score; in the paper's order.
TABLES = {
  paper.TABLE_2: """
    MNLI-m 82.1 80.6, MNLI-mm 81.4 80.1, SNLI 89.9 89.3, SciTail 88.3 83.3,
    QNLI 88.1 82.3, RTE 56.0 61.7""",
  paper.TABLE_3: """
    Story Cloze 86.5 77.6, RACE-m 62.9 60.2, RACE-h 57.4 50.3,
    RACE 59.0 53.3""",
  paper.TABLE_4: """
    CoLA 45.4 35.0, SST-2 91.3 93.2, MRPC 82.3 86.0, STS-B 82.0 81.0,
    QQP 70.3 66.1""",
}


@pytest.mark.parametrize(('table', 'text'), TABLES.items())
def test_tables_2_to_4(table, text):
  found = [f'{c.column} {c.score:.1f} {c.earlier:.1f}' for c in table]
  assert found == [' '.join(part.split()) for part in text.split(',')]


def test_averages_are_unweighted_means():
  """P Table 5 states the last average a tenth too low."""
  for average, row in paper.TABLE_5.values():
    assert abs(average - statistics.mean(row)) < 0.0626


def test_metrics_match_the_tasks():
  for column in (*paper.TABLE_2, *paper.TABLE_3, *paper.TABLE_4):
    assert table.TASKS[column.task].metrics[0] == column.metric
    dev = f'dev{column.suffix}'
    assert dev in table.TASKS[column.task].dev_splits
  named = {c.task for t in TABLES for c in t}
  assert named == set(table.TWELVE)


def test_zero_shot_references_match():
  for column in (*paper.TABLE_3, *paper.TABLE_4):
    name = column.fallback or column.task
    if name in questions.TASKS:
      task = questions.TASKS[name]
      assert (task.metric, task.reference) == (
        column.metric,
        pytest.approx(column.earlier / 100),
      )


def test_the_reference_page_lists_the_same_figures():
  root = pathlib.Path(__file__).resolve().parents[1]
  text = (root / 'docs' / 'reference.md').read_text(encoding='utf-8')
  rows = re.findall(
    r'^\| ([\w -]+) \|[^|]*\|[^|]*\| [\w -]+ \|([^|]*)\|', text, re.M
  )
  given = {name: re.findall(r'\d+\.\d', cell) for name, cell in rows}
  given = {name: scores for name, scores in given.items() if scores}
  columns = (*paper.TABLE_2, *paper.TABLE_3, *paper.TABLE_4)
  ours = {}
  for column in columns:
    name = re.sub('-(mm|m|h)$', '', column.column)
    ours.setdefault(name, []).append(f'{column.score:.1f}')
  assert len(given) == 12
  assert given == ours
  found = re.search(r'Ablations \(P Table 5.*?\n\n(.*?)\n\n', text, re.S)
  numbers = re.findall(r'\d+\.\d', found.group(1))
  table_5 = ((average, *row) for average, row in paper.TABLE_5.values())
  assert numbers == [f'{x:.1f}' for row in table_5 for x in row]
  assert f'GLUE score {paper.GLUE}' in text
  assert f'{paper.PARAMETERS:,}' in text
  assert f'perplexity {paper.PERPLEXITY}' in text
