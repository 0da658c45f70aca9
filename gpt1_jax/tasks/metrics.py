"""Computes the metrics of the paper's tables with scikit-learn and SciPy.

Where these leave a score undefined and warn, it has a value here, so that a
model that always predicts the same still gets a score.
"""

import warnings
from collections.abc import Callable, Sequence

import numpy as np
import scipy.stats
import sklearn.metrics


def score(
  names: Sequence[str], labels: np.ndarray, predictions: np.ndarray
) -> dict[str, float]:
  """Scores predictions against labels; each score lies between -1 and 1.

  Args:
    names: any of 'accuracy'; 'f1', of class 1 of two; 'matthews'; 'pearson';
      'spearman'; 'auc', the area under the ROC curve of two classes.
    labels: [N], class numbers or values.
    predictions: [N], as labels; for auc any score that is high for class 1.

  Returns:
    Name -> score. Degenerate cases: f1 is 0 if class 1 is neither present nor
    predicted; matthews is 0 if either side is constant; pearson and spearman
    are 0 if either side is constant or N is 1; auc is 0.5 if all labels are
    equal.

  Raises:
    ValueError: a name is unknown, N is 0, the shapes differ, or a value is
      not finite.
  """
  labels, predictions = np.asarray(labels), np.asarray(predictions)
  if labels.ndim != 1 or labels.shape != predictions.shape or not labels.size:
    raise ValueError(
      f'labels {labels.shape} and predictions {predictions.shape} must both be '
      '[N] with N above 0'
    )
  if not (np.isfinite(labels).all() and np.isfinite(predictions).all()):
    raise ValueError('a label or a prediction is not finite')
  unknown = [name for name in names if name not in _METRICS]
  if unknown:
    raise ValueError(
      f'no metric {unknown[0]!r}: choose from {", ".join(_METRICS)}'
    )
  return {name: float(_METRICS[name](labels, predictions)) for name in names}


def _f1(labels: np.ndarray, predictions: np.ndarray) -> float:
  return sklearn.metrics.f1_score(
    labels, predictions, labels=[1], average='macro', zero_division=0.0
  )


def _matthews(labels: np.ndarray, predictions: np.ndarray) -> float:
  if np.ptp(labels) == 0 or np.ptp(predictions) == 0:
    return 0.0
  return sklearn.metrics.matthews_corrcoef(labels, predictions)


def _pearson(labels: np.ndarray, predictions: np.ndarray) -> float:
  if np.ptp(labels) == 0 or np.ptp(predictions) == 0:
    return 0.0
  with warnings.catch_warnings():
    # An untrained head is nearly constant; its score is defined, if imprecise.
    warnings.simplefilter('ignore', scipy.stats.NearConstantInputWarning)
    return scipy.stats.pearsonr(
      labels.astype(np.float64), predictions.astype(np.float64)
    ).statistic


def _spearman(labels: np.ndarray, predictions: np.ndarray) -> float:
  if np.ptp(labels) == 0 or np.ptp(predictions) == 0:
    return 0.0
  return scipy.stats.spearmanr(labels, predictions).statistic


def _auc(labels: np.ndarray, predictions: np.ndarray) -> float:
  if np.ptp(labels) == 0:
    return 0.5
  return sklearn.metrics.roc_auc_score(labels, predictions)


_METRICS: dict[str, Callable[[np.ndarray, np.ndarray], float]] = {
  'accuracy': sklearn.metrics.accuracy_score,
  'f1': _f1,
  'matthews': _matthews,
  'pearson': _pearson,
  'spearman': _spearman,
  'auc': _auc,
}
