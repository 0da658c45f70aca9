"""Turns log-probabilities into answers and scores (P §5), without jax."""

import dataclasses
from collections.abc import Sequence
from typing import TypedDict

import numpy as np

from gpt1_jax.tasks import metrics
from gpt1_jax.tasks.zero_shot import questions as questions_lib


class Diagnostics(TypedDict, total=False):
  """Counts and figures beside the score of a task.

  Keys:
    cut: questions that lost text to fit n_ctx.
    unscored: questions with a candidate of which no token is scored.
    ties: questions with several best candidates; the first is the answer.
    odd: rows of the file that could not be used.
    threshold: CoLA's, on the mean log-probability.
    auc: area under the ROC curve; independent of the threshold and of how
      frequent the two words of SST-2 are, which decide a small model's answers.
  """

  cut: int
  unscored: int
  ties: int
  odd: int
  threshold: float
  auc: float


@dataclasses.dataclass(frozen=True)
class Answers:
  """The answers to one task and their score.

  Attributes:
    task: a key of `TASKS`, or `cola_train`, which is no task of its own.
    split: split of the questions.
    labels: int64 [N].
    predictions: int64 [N].
    compared: float64 [N, K], the figures that decided each answer.
    score: value of the task's metric.
    diagnostics: more figures for zero_shot.jsonl.
  """

  task: str
  split: str
  labels: np.ndarray
  predictions: np.ndarray
  compared: np.ndarray
  score: float
  diagnostics: Diagnostics


def decide(
  questions: Sequence[questions_lib.Questions], log_probs: np.ndarray
) -> list[Answers]:
  """Answers all questions.

  Args:
    questions: the tasks; CoLA's train split comes before its dev split.
    log_probs: float64, sums over the scored tokens of all candidates, in the
      order of the questions.

  Returns:
    The answers to each element of `questions`. If both halves of RACE are
    there, they follow once more, joined as `race`.
  """
  ends = np.cumsum([len(part.candidates) for part in questions])
  answers: list[Answers] = []
  threshold = None
  for part, sums in zip(questions, np.split(log_probs, ends[:-1]), strict=True):
    if part.task == 'cola':
      means_N = _candidate_scores(part, sums)[:, 0]
      if threshold is None:
        threshold = choose_threshold(means_N, part.labels)
      answers.append(_answer_by_threshold(part, means_N, threshold))
    else:
      answers.append(_answer_by_maximum(part, _candidate_scores(part, sums)))
  halves = [a for a in answers if a.task in questions_lib.RACE_HALVES]
  if len(halves) == 2:
    answers.append(_joined(halves))
  return answers


def choose_threshold(scores: np.ndarray, labels: np.ndarray) -> float:
  """Returns the threshold with the highest Matthews coefficient.

  Scores at or above it are class 1; a score of -inf is always class 0. The
  threshold is the lowest score or a midpoint between neighbouring scores; the
  lowest of equally good ones.

  Args:
    scores: float64 [N].
    labels: [N], 0 or 1.
  """
  finite = np.isfinite(scores)
  order = np.argsort(scores[finite], kind='stable')
  values, right = scores[finite][order], labels[finite][order] == 1
  if not len(values):
    return 0.0
  # One cut before each distinct value; `above` counts the scores from there on.
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


def _num_scored(part: questions_lib.Questions) -> np.ndarray:
  """Returns int [N, C], the number of scored tokens of each candidate."""
  counts = [candidate.num_scored for candidate in part.candidates]
  return np.array(counts).reshape(-1, part.num_choices)


def _candidate_scores(
  part: questions_lib.Questions, log_probs: np.ndarray
) -> np.ndarray:
  """Returns float64 [N, C]: sums for SST-2 (chain rule), means otherwise."""
  sums_NC = log_probs.reshape(-1, part.num_choices)
  if part.task == 'sst2':
    return sums_NC
  counts_NC = _num_scored(part)
  # A candidate without a scored token is never the answer.
  return np.where(counts_NC > 0, sums_NC / np.maximum(counts_NC, 1), -np.inf)


def _answer_by_maximum(
  part: questions_lib.Questions, scores_NC: np.ndarray
) -> Answers:
  diagnostics = _counts(part)
  if part.task == 'sst2':
    diagnostics['auc'] = _auc(scores_NC[:, 1] - scores_NC[:, 0], part.labels)
  is_best_NC = scores_NC == scores_NC.max(axis=1, keepdims=True)
  diagnostics['ties'] = int((is_best_NC.sum(axis=1) > 1).sum())
  diagnostics['odd'] = len(part.skipped_rows)
  predictions = scores_NC.argmax(axis=1)
  return _answers(part.task, part, predictions, scores_NC, diagnostics)


def _answer_by_threshold(
  part: questions_lib.Questions, means_N: np.ndarray, threshold: float
) -> Answers:
  diagnostics = _counts(part)
  diagnostics['threshold'] = threshold
  diagnostics['auc'] = _auc(means_N, part.labels)
  predictions = (means_N >= threshold).astype(np.int64)
  compared = np.stack([means_N, np.full(len(means_N), threshold)], axis=1)
  name = 'cola_train' if part.split == 'train' else 'cola'
  return _answers(name, part, predictions, compared, diagnostics)


def _answers(
  name: str,
  part: questions_lib.Questions,
  predictions: np.ndarray,
  compared: np.ndarray,
  diagnostics: Diagnostics,
) -> Answers:
  metric = questions_lib.TASKS[part.task].metric
  score = metrics.score([metric], part.labels, predictions)[metric]
  return Answers(
    name, part.split, part.labels, predictions, compared, score, diagnostics
  )


def _joined(halves: Sequence[Answers]) -> Answers:
  """Joins the middle and high halves of RACE."""
  labels = np.concatenate([half.labels for half in halves])
  predictions = np.concatenate([half.predictions for half in halves])
  return Answers(
    'race',
    halves[0].split,
    labels,
    predictions,
    np.concatenate([half.compared for half in halves]),
    metrics.score(['accuracy'], labels, predictions)['accuracy'],
    Diagnostics(
      cut=sum(half.diagnostics['cut'] for half in halves),
      unscored=sum(half.diagnostics['unscored'] for half in halves),
      ties=sum(half.diagnostics['ties'] for half in halves),
      odd=sum(half.diagnostics['odd'] for half in halves),
    ),
  )


def _counts(part: questions_lib.Questions) -> Diagnostics:
  unscored = int((_num_scored(part) == 0).any(axis=1).sum())
  return Diagnostics(cut=part.num_cut, unscored=unscored)


def _auc(scores: np.ndarray, labels: np.ndarray) -> float:
  # Ranks stay finite where scores are not.
  ranks = np.unique(scores, return_inverse=True)[1]
  return metrics.score(['auc'], labels, ranks)['auc']
