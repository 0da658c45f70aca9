"""Tests the scaling law of the report on runs that follow a known law."""

import json
import math
import pathlib

import pytest

from gpt1_jax.reporting import law, runs as runs_lib, sections
from tests.support import run_folders

TRUE = law.Law(e=2.0, a=80.0, b=300.0, alpha=0.3, beta=0.35)
SIZES = (600_000, 1_700_000, 5_200_000)
AMOUNTS = (500_000, 2_000_000, 8_000_000)


def write(top, size, tokens, loss=None, rate=2e-3, start='none'):
  """Writes a run whose loss follows `TRUE` unless it is given."""
  name = f'{size}-{tokens}-{rate}' + f'-{start}' * (start != 'none')
  folder = run_folders.pretraining(top / name)
  path = folder / 'config.json'
  header = json.loads(path.read_text())
  header['parameters'] = size
  header['config']['optim']['peak_lr'] = rate
  header['config']['init_from'] = start
  path.write_text(json.dumps(header))
  path = folder / 'scores.json'
  scores = json.loads(path.read_text())
  loss = TRUE.loss(size, tokens) if loss is None else loss
  scores['tokens_seen'] = tokens
  scores['eval_perplexity'] = math.exp(loss)
  scores['eval_word_perplexity'] = math.exp(1.25 * loss)
  path.write_text(json.dumps(scores))


@pytest.fixture
def top(tmp_path):
  for size in SIZES:
    for tokens in AMOUNTS:
      write(tmp_path, size, tokens)
  return tmp_path


def find(folder):
  return runs_lib.find([str(folder)])


def test_fit_finds_the_law_behind_the_losses():
  points = [
    law.Point(size, tokens, TRUE.loss(size, tokens))
    for size in SIZES
    for tokens in AMOUNTS
  ]
  found = law.fit(points)
  assert found.loss(1e8, 1e10) == pytest.approx(TRUE.loss(1e8, 1e10), rel=2e-3)
  assert found.alpha == pytest.approx(TRUE.alpha, rel=0.02)
  assert found.beta == pytest.approx(TRUE.beta, rel=0.02)


def test_epochs_are_worth_less_and_less():
  assert law.effective_tokens(1e6, 1) == 1e6
  assert law.effective_tokens(1e6, 4) == pytest.approx(3.73e6, rel=1e-2)
  assert law.effective_tokens(1e6, 1e9) == pytest.approx(16.39e6, rel=1e-3)


def test_study_predicts_a_run_outside_the_grid(top):
  write(top, 10_300_000, 41_000_000, rate=1e-3)
  write(top, 10_300_000, 4_000_000)  # of the same recipe, but not a full row
  write(top, SIZES[0], AMOUNTS[0], loss=9.0, start='frequencies')
  study = law.study(find(top))
  assert len(study.fitted) == 9
  assert all('frequencies' not in run.name for run in study.fitted)
  others = {run.header['parameters'] for run in study.others}
  assert others == {10_300_000, SIZES[0]}
  rows = {row['run']: row for row in law.table(study).rows}
  row = rows['10300000-41000000-0.001']
  assert row['role'] == 'predicted'
  assert float(row['law']) == pytest.approx(float(row['loss']), abs=0.01)
  gpt1 = rows['GPT-1, 1 epoch of BooksCorpus']
  tokens = 985e6 * 1.25
  expected = math.exp(TRUE.loss(116_534_784, tokens))
  assert float(gpt1['perplexity per token'].split()[0]) == pytest.approx(
    expected, rel=0.02
  )


@pytest.mark.parametrize('missing', ['size', 'amount', 'tokenizer', 'start'])
def test_no_law_without_a_grid(top, missing):
  for folder in sorted(top.iterdir()):
    size, tokens, _ = folder.name.split('-', 2)
    if missing == 'size' and int(size) == SIZES[0]:
      (folder / 'scores.json').unlink()
    if missing == 'amount' and int(tokens) == AMOUNTS[2]:
      (folder / 'scores.json').unlink()
    if missing == 'tokenizer' and int(size) == SIZES[1]:
      path = folder / 'config.json'
      header = json.loads(path.read_text())
      path.write_text(json.dumps(header | {'tokenizer_fingerprint': 'x'}))
    if missing == 'start' and int(size) == SIZES[1]:
      path = folder / 'config.json'
      text = path.read_text()
      path.write_text(
        text.replace('"init_from": "none"', '"init_from": "frequencies"')
      )
  assert law.study(find(top)) is None


def test_report_has_the_section(top):
  report = sections.build(find(top))
  (section,) = (each for each in report.sections if each.name == 'law')
  assert section.note.startswith('loss = 2.0')
  assert len(section.plots) == 1
  assert section.plots[0].svg.count('1.7 M') == 0  # the legend is HTML
  assert [line.label for line in section.plots[0].lines][:2] == [
    '600.0 k parameters',
    '600.0 k parameters, law',
  ]
  drawn = sections.law_picture(report)
  assert drawn.count('>600.0 k parameters, law<') == 1
  assert sections.law_picture(sections.build([])) is None


def test_the_runs_that_ship_give_the_law_of_the_docs():
  folder = pathlib.Path(__file__).resolve().parents[1] / 'docs' / 'results'
  text = (folder / 'law.md').read_text(encoding='utf-8')
  runs = find(folder / 'law')
  study = law.study(runs)
  assert law.formula(study.law) in text
  rows = law.table(study).rows
  assert all(row['loss'] in text for row in rows if row['role'] == 'fitted')
  assert len([row for row in rows if row['role'] == 'fitted']) == 12
  perplexity, low, high = rows[-1]['perplexity per token'].split()
  assert f'2.75 ({perplexity})' in text
  assert f'{low[1:-1]} to {high[:-1]} for a hundred' in text.replace('\n', ' ')
