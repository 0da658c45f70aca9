"""Turns log-probabilities into answers and scores (P §5), without jax."""

import dataclasses
from collections.abc import Sequence

import numpy as np
from typing_extensions import TypedDict

from gpt1_jax.tasks import metrics
from gpt1_jax.tasks.zero_shot.questions import RACE_HALVES, TASKS, Questions


class Diagnostics(TypedDict, total=False):
  """Counts and figures beside the score of a task.

  Keys:
    cut: questions that lost text to fit n_ctx.
    unscored: questions with a candidate of which no token is scored.
    ties: questions with several best candidates; the first is the answer.
    odd: number of rows of the file that could not be used.
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
    task: a key of `TASKS`, or `cola_train`, which only sets the threshold.
    questions: what was asked.
    predictions: int64 [N].
    compared: float64 [N, K], the numbers that decided each answer.
    diagnostics: additional fields of zero_shot.jsonl.
  """

  task: str
  questions: Questions
  predictions: np.ndarray
  compared: np.ndarray
  diagnostics: Diagnostics

  @property
  def score(self) -> float:
    """Value of the task's metric."""
    metric = TASKS[self.questions.task].metric
    labels = self.questions.labels
    return metrics.score([metric], labels, self.predictions)[metric]


def decide(
  questions: Sequence[Questions], log_probs: np.ndarray
) -> list[Answers]:
  """Answers all questions.

  Args:
    questions: the tasks; CoLA's train split comes before its dev split.
    log_probs: float64, sums over the scored tokens of all candidates, in the
      order of the questions.

  Returns:
    The answers to each element of `questions`, and to both halves of RACE
    joined as `race` if both are there.
  """
  ends = np.cumsum([len(part.candidates) for part in questions])
  parts = list(zip(questions, np.split(log_probs, ends[:-1]), strict=True))
  halves = [part for part in parts if part[0].task in RACE_HALVES]
  if len(halves) == 2:
    (middle, sums), (high, more_sums) = halves
    parts.append((middle.joined(high), np.concatenate([sums, more_sums])))
  answers: list[Answers] = []
  threshold = None
  for part, sums in parts:
    if part.task == 'cola':
      answer = _answer_by_threshold(part, sums, threshold)
      threshold = answer.diagnostics['threshold']
    else:
      answer = _answer_by_maximum(part, sums)
    answers.append(answer)
  return answers


def choose_threshold(scores: np.ndarray, labels: np.ndarray) -> float:
  """Returns the threshold with the highest Matthews coefficient.

  Scores at or above it are class 1; a score of -inf is always class 0. The
  threshold is the lowest score or a midpoint between neighbouring scores; ties
  go to the lowest.

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


def _scores(
  part: Questions, sums: np.ndarray
) -> tuple[np.ndarray, Diagnostics]:
  """Returns float64 [N, C], a score for each candidate, and first diagnostics.

  The score is the sum of the tokens' log-probabilities for SST-2 (chain rule),
  and their mean for other tasks.
  """
  counts = [candidate.num_scored for candidate in part.candidates]
  counts_NC = np.array(counts).reshape(-1, part.num_choices)
  scores_NC = sums.reshape(counts_NC.shape)
  if part.task != 'sst2':
    # A candidate without a scored token is never the answer.
    means_NC = scores_NC / np.maximum(counts_NC, 1)
    scores_NC = np.where(counts_NC > 0, means_NC, -np.inf)
  unscored = int((counts_NC == 0).any(axis=1).sum())
  return scores_NC, Diagnostics(cut=part.num_cut, unscored=unscored)


def _answer_by_maximum(part: Questions, sums: np.ndarray) -> Answers:
  scores_NC, diagnostics = _scores(part, sums)
  if part.task == 'sst2':
    diagnostics['auc'] = _auc(scores_NC[:, 1] - scores_NC[:, 0], part.labels)
  is_best_NC = scores_NC == scores_NC.max(axis=1, keepdims=True)
  diagnostics['ties'] = int((is_best_NC.sum(axis=1) > 1).sum())
  diagnostics['odd'] = len(part.skipped_rows)
  predictions_N = scores_NC.argmax(axis=1)
  return Answers(part.task, part, predictions_N, scores_NC, diagnostics)


def _answer_by_threshold(
  part: Questions, sums: np.ndarray, threshold: float | None
) -> Answers:
  """Answers CoLA by a threshold; chooses it if None."""
  scores_NC, diagnostics = _scores(part, sums)
  means_N = scores_NC[:, 0]
  if threshold is None:
    threshold = choose_threshold(means_N, part.labels)
  diagnostics['threshold'] = threshold
  diagnostics['auc'] = _auc(means_N, part.labels)
  predictions_N = (means_N >= threshold).astype(np.int64)
  compared = np.stack([means_N, np.full(len(means_N), threshold)], axis=1)
  name = 'cola_train' if part.split == 'train' else 'cola'
  return Answers(name, part, predictions_N, compared, diagnostics)


def _auc(scores: np.ndarray, labels: np.ndarray) -> float:
  # Ranks stay finite where scores are not.
  ranks = np.unique(scores, return_inverse=True)[1]
  return metrics.score(['auc'], labels, ranks)['auc']
