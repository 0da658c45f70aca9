"""Compares metrics with their formulas, and checks the undefined cases."""

import numpy as np
import pytest

from gpt1_jax.tasks import metrics

LABELS = np.array([1, 1, 1, 0, 0, 1, 0, 0])
GUESSES = np.array([1, 0, 1, 1, 0, 1, 0, 0])
# true positives 3, false positives 1, false negatives 1, true negatives 3


def test_class_metrics_equal_their_formulas():
  scores = metrics.score(['accuracy', 'f1', 'matthews'], LABELS, GUESSES)
  assert list(scores) == ['accuracy', 'f1', 'matthews']
  assert scores['accuracy'] == 6 / 8
  assert scores['f1'] == 2 * 3 / (2 * 3 + 1 + 1)
  matthews = (3 * 3 - 1 * 1) / np.sqrt(4 * 4 * 4 * 4)
  assert scores['matthews'] == pytest.approx(matthews, abs=1e-15)
  assert all(type(value) is float for value in scores.values())


def test_matthews_of_three_classes():
  labels, guesses = np.array([0, 1, 2, 2, 1]), np.array([0, 1, 2, 1, 1])
  c, s = 4, 5
  p, t = np.array([1, 3, 1]), np.array([1, 2, 2])
  expected = (c * s - p @ t) / np.sqrt((s * s - p @ p) * (s * s - t @ t))
  found = metrics.score(['matthews'], labels, guesses)['matthews']
  assert found == pytest.approx(expected, abs=1e-15)


def test_correlations_equal_their_formulas():
  labels = np.array([0.0, 1.5, 3.0, 5.0], np.float32)
  guesses = np.array([0.5, 4.0, 2.0, 4.5], np.float32)
  scores = metrics.score(['pearson', 'spearman'], labels, guesses)
  a, b = labels - labels.mean(), guesses - guesses.mean()
  pearson = (a @ b) / np.sqrt((a @ a) * (b @ b))
  assert scores['pearson'] == pytest.approx(pearson, abs=1e-6)
  # Ranks 0 1 2 3 and 0 2 1 3: 1 - 6 * (1 + 1) / (4 * (16 - 1)).
  assert scores['spearman'] == pytest.approx(1 - 12 / 60, abs=1e-15)


@pytest.mark.parametrize('constant', [0, 1])
def test_constant_predictions_score_without_warning(constant):
  guesses = np.full(8, constant)
  scores = metrics.score(['matthews', 'pearson', 'spearman'], LABELS, guesses)
  assert scores == {'matthews': 0.0, 'pearson': 0.0, 'spearman': 0.0}
  swapped = metrics.score(['matthews', 'pearson'], guesses, LABELS)
  assert swapped == {'matthews': 0.0, 'pearson': 0.0}


def test_f1_where_nothing_is_positive():
  assert metrics.score(['f1'], np.zeros(3), np.zeros(3)) == {'f1': 0.0}
  assert metrics.score(['f1'], np.ones(3), np.zeros(3)) == {'f1': 0.0}


def test_auc_counts_the_pairs_in_order():
  labels = np.array([1, 0, 1, 0, 0])
  order = np.array([3, 3, 5, 1, 4])  # of 6 pairs: one tied, four in order
  assert metrics.score(['auc'], labels, order)['auc'] == 4.5 / 6
  assert metrics.score(['auc'], labels * 0, order)['auc'] == 0.5


def test_nearly_constant_and_single_values_do_not_warn():
  guesses = np.array([1, 1 + 1e-14, 1, 1])
  scores = metrics.score(['pearson'], np.arange(4.0), guesses)
  assert -1 <= scores['pearson'] <= 1
  assert metrics.score(['pearson'], [1.0], [2.0]) == {'pearson': 0.0}


@pytest.mark.parametrize(
  ('names', 'labels', 'guesses', 'what'),
  [
    (['accurcy'], [1], [1], 'no metric'),
    (['accuracy'], [], [], 'above 0'),
    (['accuracy'], [1, 0], [1], 'must both be'),
    (['pearson'], [1.0, 2.0], [1.0, np.nan], 'not finite'),
  ],
)
def test_values_that_cannot_be_scored_are_refused(names, labels, guesses, what):
  with pytest.raises(ValueError, match=what):
    metrics.score(names, labels, guesses)


@pytest.mark.parametrize(
  ('labels', 'guesses', 'said'),
  [
    ([0, 1], [1, 0], []),
    ([1], [0], ['the score rests on one example']),
    ([1, 1], [0, 1], ['all 2 labels are the same']),
    ([0.5, 1.5], [2.0, 2.0], ['all 2 predictions are the same']),
    (
      [1] * 1000,
      [1] * 1000,
      ['all 1,000 labels are the same', 'all 1,000 predictions are the same'],
    ),
  ],
)
def test_degenerate_scores_are_said(labels, guesses, said):
  assert metrics.remarks(np.array(labels), np.array(guesses)) == said
