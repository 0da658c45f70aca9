"""Ranks a run's checkpoints by their score, in WORKDIR/ranking.json.

A checkpoint is saved before it is evaluated, so the score is not part of it.
"""

import math
from collections.abc import Iterable, Sequence
from typing import Any

import jax

from gpt1_jax import storage

RANKING = 'ranking.json'  # {step: score}


class Ranking:
  """Scores of checkpoints; higher is better."""

  def __init__(self, workdir: str):
    """Reads the scores of the run, if there are any."""
    self._path = storage.path(workdir) / RANKING
    found = storage.read_json(self._path) if self._path.exists() else {}
    self._scores = {int(step): float(score) for step, score in found.items()}

  def add(self, step: int, score: float) -> None:
    """Records a score; host 0 writes it."""
    if not math.isfinite(score):
      return  # ranks below all others
    self._scores[step] = score
    if jax.process_index() == 0:
      storage.write_json(self._path, self._scores)

  def best(self, steps: Iterable[int]) -> int | None:
    """Returns the best of `steps`, of equals the first (C: train.py).

    Returns None if none of them has a score.
    """
    ranks = [(self._scores[s], -s) for s in steps if s in self._scores]
    return -max(ranks)[1] if ranks else None

  def should_preserve(
    self, checkpoints: Sequence[Any], *, context: Any
  ) -> Sequence[bool]:
    """Tells Orbax to preserve the best checkpoint (a PreservationPolicy)."""
    del context
    best = self.best(each.step for each in checkpoints)
    return [each.step == best for each in checkpoints]
