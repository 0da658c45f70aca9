"""Computes the metrics of the paper's tables with scikit-learn and SciPy.

Where they warn that a score is undefined, it gets a value here, so that a model
with constant predictions still has a score.
"""

import functools
import warnings
from collections.abc import Callable, Sequence

import numpy as np

Metric = Callable[[np.ndarray, np.ndarray], float]


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
    predicted; matthews, pearson and spearman are 0 if either side is constant;
    auc is 0.5 if all labels are equal.

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
  return {name: _score(name, labels, predictions) for name in names}


def remarks(labels: np.ndarray, predictions: np.ndarray) -> list[str]:
  """Returns reasons why a score on this split says little; usually none."""
  if len(labels) == 1:
    return ['the score rests on one example']
  said = []
  if np.ptp(labels) == 0:
    said.append(f'all {len(labels):,} labels are the same')
  if np.ptp(predictions) == 0:
    said.append(f'all {len(labels):,} predictions are the same')
  return said


def _score(name: str, labels: np.ndarray, predictions: np.ndarray) -> float:
  known = _metrics()
  if name not in known:
    raise ValueError(f'no metric {name!r}: choose from {", ".join(known)}')
  if name == 'auc' and np.ptp(labels) == 0:
    return 0.5
  if name in ('matthews', 'pearson', 'spearman') and (
    np.ptp(labels) == 0 or np.ptp(predictions) == 0
  ):
    return 0.0
  from scipy import stats  # slow to import

  with warnings.catch_warnings():
    # SciPy warns about nearly constant inputs, such as an untrained head's.
    warnings.simplefilter('ignore', stats.NearConstantInputWarning)
    return float(known[name](labels, predictions))


@functools.cache
def _metrics() -> dict[str, Metric]:
  """Returns the metrics by name; the first call imports for a second."""
  import scipy.stats
  from sklearn import metrics

  def pearson(labels: np.ndarray, predictions: np.ndarray) -> float:
    pair = labels.astype(np.float64), predictions.astype(np.float64)
    return scipy.stats.pearsonr(*pair).statistic

  return {
    'accuracy': metrics.accuracy_score,
    'f1': functools.partial(
      metrics.f1_score, labels=[1], average='macro', zero_division=0.0
    ),
    'matthews': metrics.matthews_corrcoef,
    'pearson': pearson,
    'spearman': lambda *pair: scipy.stats.spearmanr(*pair).statistic,
    'auc': metrics.roc_auc_score,
  }
