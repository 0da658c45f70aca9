"""From log-probabilities to answers and scores (P §5). No jax here."""

import dataclasses
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from gpt1_jax.tasks import metrics
from gpt1_jax.tasks.zero_shot import candidates


@dataclasses.dataclass(frozen=True)
class Result:
  """Answers to one task.

  Attributes:
    task: a name of `zero_shot.TASKS`; or `cola_train`, which is not scored.
    split: of the questions.
    labels, predictions: int64 [N].
    compared: float64 [N, K], what the answer was chosen by.
    score: of the task's metric.
    facts: what else there is to say of this task.
  """

  task: str
  split: str
  labels: np.ndarray
  predictions: np.ndarray
  compared: np.ndarray
  score: float
  facts: Mapping[str, Any]


def decide(
  questions: Sequence[candidates.Questions],
  sums: np.ndarray,
  counts: np.ndarray,
) -> list[Result]:
  """The results of all tasks.

  Args:
    questions: in the order in which they were packed.
    sums: float64, log p of each sequence's scored tokens.
    counts: int, how many those are.

  Returns:
    A result a task. Both halves of RACE make a third, `race`; CoLA's training
    set is one as well, for its threshold to be checked.
  """
  results, start = [], 0
  threshold = None
  for part in questions:
    stop = start + len(part.sequences)
    shape = (len(part.labels), part.num_choices)
    total_NC = sums[start:stop].reshape(shape)
    count_NC = counts[start:stop].reshape(shape)
    start = stop
    if part.task == 'sst2':
      compared_NC = total_NC  # the whole word: a sum, by the chain rule
    else:
      # Nothing scored is no evidence at all: -inf, the least.
      compared_NC = np.where(
        count_NC > 0, total_NC / np.maximum(count_NC, 1), -np.inf
      )
    facts = {'cut': part.cut, 'unscored': int((count_NC == 0).any(1).sum())}
    if part.task == 'sst2':
      facts['auc'] = _auc(compared_NC[:, 1] - compared_NC[:, 0], part.labels)
    if part.task != 'cola':
      facts |= {'ties': _ties(compared_NC), 'odd': len(part.odd)}
      results.append(_result(part.task, part, compared_NC, facts))
      continue
    if threshold is None:  # train comes first
      threshold = choose_threshold(compared_NC[:, 0], part.labels)
    facts |= {
      'threshold': threshold,
      'auc': _auc(compared_NC[:, 0], part.labels),
    }
    name = 'cola_train' if part.split == 'train' else 'cola'
    results.append(_result(name, part, compared_NC, facts, threshold))
  halves = [r for r in results if r.task in ('race_middle', 'race_high')]
  if len(halves) == 2:
    results.append(_joined(halves))
  return results


def choose_threshold(scores: np.ndarray, labels: np.ndarray) -> float:
  """The threshold with the highest Matthews coefficient; the least of equals.

  Scores at or above it are class 1. It lies half-way between two neighbouring
  scores, or at the least of them; one that is -inf is always class 0.

  Args:
    scores: float64 [N].
    labels: [N], 0 or 1.
  """
  finite = np.isfinite(scores)
  order = np.argsort(scores[finite], kind='stable')
  values, right = scores[finite][order], labels[finite][order] == 1
  if not len(values):
    return 0.0
  # For a cut before each of the distinct values: what is above it.
  cuts = np.flatnonzero(np.diff(values, prepend=-np.inf))
  above = len(values) - cuts
  true_above = right.sum() - np.concatenate([[0], np.cumsum(right)])[cuts]
  positives, count = int((labels == 1).sum()), len(labels)
  # With tp of P positives among A above: (tp N - A P) / sqrt(A P (N-A) (N-P)).
  covariance = true_above * float(count) - above * float(positives)
  product = above * (count - above) * float(positives * (count - positives))
  matthews = covariance / np.sqrt(np.maximum(product, 1.0))
  best = int(np.argmax(matthews))
  if not best:
    return float(values[0])
  below, value = values[cuts[best] - 1], values[cuts[best]]
  middle = below + (value - below) / 2
  return float(middle if below < middle else value)


def _result(
  name: str,
  part: candidates.Questions,
  compared_NC: np.ndarray,
  facts: dict[str, Any],
  threshold: float | None = None,
) -> Result:
  if threshold is None:
    predictions = compared_NC.argmax(axis=1)
  else:
    predictions = (compared_NC[:, 0] >= threshold).astype(np.int64)
    compared_NC = np.stack(
      [compared_NC[:, 0], np.full(len(predictions), threshold)], axis=1
    )
  metric = candidates.TASKS[part.task].metric
  score = metrics.score([metric], part.labels, predictions)[metric]
  return Result(
    name, part.split, part.labels, predictions, compared_NC, score, facts
  )


def _joined(halves: Sequence[Result]) -> Result:
  """RACE, middle and high."""
  labels, predictions, compared = (
    np.concatenate([getattr(half, name) for half in halves])
    for name in ('labels', 'predictions', 'compared')
  )
  score = metrics.score(['accuracy'], labels, predictions)['accuracy']
  facts = {
    key: sum(half.facts[key] for half in halves) for key in halves[0].facts
  }
  split = halves[0].split
  return Result('race', split, labels, predictions, compared, score, facts)


def _auc(scores: np.ndarray, labels: np.ndarray) -> float:
  """Whether class 1 ranks above class 0, wherever the border is drawn.

  A small model's answer may hang on how frequent two words are, or on the
  threshold; its order of the examples does not.
  """
  # Ranks, which are finite where scores are not.
  ranks = np.unique(scores, return_inverse=True)[1]
  return metrics.score(['auc'], labels, ranks)['auc']


def _ties(compared_NC: np.ndarray) -> int:
  """Questions whose best answers are equal: the first of them is taken."""
  best_N1 = compared_NC.max(axis=1, keepdims=True)
  return int(((compared_NC == best_N1).sum(axis=1) > 1).sum())
