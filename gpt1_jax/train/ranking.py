"""Ranks a run's checkpoints by their score, in WORKDIR/ranking.json.

A checkpoint is saved before it is evaluated, so the score is not part of it.
"""

import math
from collections.abc import Iterable, Sequence
from typing import Any

import jax

from gpt1_jax import storage
from gpt1_jax.errors import UserError

RANKING = 'ranking.json'  # {step: score}


def _score(value: float) -> float:
  """Returns a score; raises ValueError or TypeError if it is not one."""
  if isinstance(value, str | bool) or not math.isfinite(value):
    raise ValueError(value)
  return float(value)


class Ranking:
  """Scores of checkpoints; higher is better."""

  def __init__(self, workdir: str):
    """Reads the scores of the run, if there are any.

    Raises:
      UserError: the file is damaged.
    """
    self._path = storage.path(workdir) / RANKING
    found = storage.read_json(self._path) if self._path.exists() else {}
    try:
      self._scores = {int(step): _score(x) for step, x in found.items()}
    except (ValueError, TypeError, AttributeError, OverflowError):
      raise UserError(
        f'{self._path}: damaged, it must map steps to scores; restore it from '
        'a copy, or remove it to use the latest checkpoint'
      ) from None

  def add(self, step: int, score: float) -> None:
    """Records a score; host 0 writes it."""
    if not math.isfinite(score):
      return  # unranked, so below all others
    self._scores[step] = score
    if jax.process_index() == 0:
      storage.write_json(self._path, self._scores)

  def best(self, steps: Iterable[int]) -> int | None:
    """Returns the best of `steps`; ties go to the first (C: train.py).

    Returns None if none of them has a score.
    """
    ranks = [(self._scores[s], -s) for s in steps if s in self._scores]
    return -max(ranks)[1] if ranks else None

  def since_best(self, done: int) -> int:
    """Returns how many scores follow the best of those up to step `done`."""
    steps = [step for step in self._scores if step <= done]
    best = self.best(steps)
    return sum(step > best for step in steps) if best is not None else 0

  def should_preserve(
    self, checkpoints: Sequence[Any], *, context: Any
  ) -> Sequence[bool]:
    """Tells Orbax to preserve the best checkpoint (a PreservationPolicy)."""
    del context
    best = self.best(each.step for each in checkpoints)
    return [each.step == best for each in checkpoints]
