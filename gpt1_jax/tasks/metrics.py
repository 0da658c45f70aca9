"""The scores of the paper's tables, thin over scikit-learn and SciPy.

What those two leave undefined, and warn about, has a value here, so that a
model that always says the same is scored and not an accident.
"""

import warnings
from collections.abc import Callable, Sequence

import numpy as np
import scipy.stats
import sklearn.metrics


def score(
  names: Sequence[str], labels: np.ndarray, predictions: np.ndarray
) -> dict[str, float]:
  """Scores predictions against labels, each between -1 and 1.

  Args:
    names: of 'accuracy', 'f1' (of class 1, two classes only), 'matthews',
      'pearson', 'spearman', 'auc' (the area under the ROC curve, two classes).
    labels: [N], class numbers or values.
    predictions: [N], as labels; for auc any order of the rows, class 1 high.

  Returns:
    Name -> score. Degenerate cases: f1 is 0 where class 1 is neither present
    nor predicted; matthews is 0 where either side is constant; pearson and
    spearman are 0 where either side is constant or N is 1; auc is 0.5 where
    all labels are one.

  Raises:
    ValueError: an unknown name, no rows, different lengths, or a value that
      is not finite.
  """
  labels, predictions = np.asarray(labels), np.asarray(predictions)
  if labels.ndim != 1 or labels.shape != predictions.shape or not labels.size:
    raise ValueError(
      f'labels {labels.shape} and predictions {predictions.shape}: two equal '
      '[N] with N above 0 are wanted'
    )
  if not (np.isfinite(labels).all() and np.isfinite(predictions).all()):
    raise ValueError('a label or a prediction is not finite')
  unknown = [name for name in names if name not in _METRICS]
  if unknown:
    raise ValueError(f'no metric {unknown[0]!r}: {", ".join(_METRICS)}')
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
    # Defined, if with few digits: a head that has only begun to learn.
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
