"""Tests what zero-shot scores decide: thresholds, answers and ties."""

import itertools
import math
import xml.etree.ElementTree as ElementTree

import numpy as np
import pytest
import sklearn.metrics
from hypothesis import given, settings, strategies as st

from gpt1_jax.reporting import figures
from gpt1_jax.tasks.zero_shot import (
  decisions,
  questions as questions_lib,
  results,
)
from tests.support.refusals import assert_refused


def matthews_at(threshold, scores, labels):
  guesses = [int(x >= threshold) for x in scores]
  if len(set(guesses)) < 2 or len(set(labels)) < 2:
    return 0.0
  return sklearn.metrics.matthews_corrcoef(labels, guesses)


SCORE = st.integers(-8, -1).map(float) | st.just(-math.inf)


@settings(max_examples=150, deadline=None)
@given(st.lists(st.tuples(SCORE, st.integers(0, 1)), min_size=1, max_size=12))
def test_the_threshold_is_the_best_one(pairs):
  scores, labels = (np.array(x) for x in zip(*pairs, strict=True))
  threshold = decisions.choose_threshold(scores, labels)
  assert math.isfinite(threshold)
  finite = sorted({x for x in scores if math.isfinite(x)})
  cuts = [*finite, *((a + b) / 2 for a, b in itertools.pairwise(finite))]
  if cuts:
    best = max(matthews_at(cut, scores, labels) for cut in cuts)
    found = matthews_at(threshold, scores, labels)
    assert found == pytest.approx(best, abs=1e-9)


def test_the_threshold_lies_between_two_scores():
  between = decisions.choose_threshold(
    np.array([-1.0, -4.0, -2.0, -3.0]), np.array([1, 0, 1, 0])
  )
  assert between == -2.5
  tight = np.array([-1.0, np.nextafter(-1.0, 0.0)])
  assert decisions.choose_threshold(tight, np.array([0, 1])) == tight[1]


def test_damaged_rows_are_named(tmp_path):
  assert results.read_rows(tmp_path) == []
  (tmp_path / 'zero_shot.jsonl').write_text('{"step": 1}\n{"st\n')
  with assert_refused('zero_shot.jsonl:2: damaged'):
    results.read_rows(tmp_path)


def decided(task, labels, sums, skipped=()):
  """Decides questions with two candidates each of one scored token."""
  candidate = questions_lib.Candidate([1, 2], first_scored=1)
  part = questions_lib.Questions(
    task, 'test', [candidate] * len(sums), np.array(labels), 0, skipped
  )
  (result,) = decisions.decide([part], np.array(sums))
  return result


def test_ties_are_counted():
  result = decided('dprd', [1, 1], [-4.0, -4.0, -4.0, -2.0], ('x',))
  assert result.predictions.tolist() == [0, 1]
  expected = {'cut': 0, 'unscored': 0, 'ties': 1, 'odd': 1}
  assert dict(result.diagnostics) == expected


def test_the_order_of_the_examples_is_told_apart_from_the_border():
  """Every sentence is called positive, positive ones with a wider margin."""
  sums = [x for margin in (1, 3, 2, 1.5) for x in (-9.0, margin - 9.0)]
  result = decided('sst2', [0, 1, 0, 1], sums)
  assert result.predictions.tolist() == [1] * 4
  assert result.score == 0.5
  assert result.diagnostics['auc'] == 3 / 4


def test_the_plot_has_a_line_a_task():
  made = [
    {'step': step, 'task': name, 'normalised': value}
    for step in (1, 2)
    for name, value in (
      ('cola', 0.1 * step),
      ('race', -0.1),
      ('race_high', 0.5),
      ('wsc273', None),
    )
  ]
  for chosen in (made, made[:4], [], made[3:4]):
    lines = figures.zero_shot_lines(chosen)
    svg = figures.draw_zero_shot(lines, file=True)
    ElementTree.fromstring(svg)
    assert svg.startswith('<svg')
    assert ('>cola<' in svg) == (len(chosen) > 1)
    assert '>wsc273<' not in svg
    assert '>race_high<' not in svg
