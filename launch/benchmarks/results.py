"""A row of a suite: ours against a reference, and what was aimed at."""

import dataclasses
import statistics
from collections.abc import Callable, Mapping, Sequence
from typing import Any

# What one candidate measured: a dictionary a repetition.
Measured = Sequence[Mapping[str, float]]


@dataclasses.dataclass(frozen=True)
class Options:
  """What the flags of launch/benchmark.py say.

  Attributes:
    preset: of configs/pretrain.py, the shape that is run.
    vocab_size: entries of the vocabulary.
    steps: updates of one repetition.
    repeats: repetitions of each candidate.
    quick: sizes that take seconds, to see that all is in place.
    data: folder of real text, or None.
    topology: that the suite `tpu` compiles for.
    say: takes a line on how it goes.
    failed: who did, so far.
  """

  preset: str
  vocab_size: int
  steps: int
  repeats: int
  quick: bool
  data: str | None
  topology: str
  say: Callable[[str], None]
  failed: list[str] = dataclasses.field(default_factory=list)

  def settings(self, **more: Any) -> dict[str, Any]:
    """Of a candidate; see `shapes`."""
    return {
      'preset': self.preset,
      'vocab_size': self.vocab_size,
      'batch_size': 2,
      'steps': self.steps,
      'model': {},
      **more,
    }


@dataclasses.dataclass(frozen=True)
class Row:
  """One line of the table.

  Attributes:
    what: was measured.
    unit: of `ours` and `theirs`; empty for a bare number.
    ours: our figure; None: not measured.
    reference: what it is compared with; empty: with the goal alone.
    theirs: its figure; None: not measured.
    goal: of ours / theirs, or of ours where there is no reference.
    at_most: the goal is an upper bound, not a lower one.
  """

  what: str
  unit: str
  ours: float | None
  reference: str
  theirs: float | None
  goal: float | None
  at_most: bool = False

  @property
  def ratio(self) -> float | None:
    """What is compared with the goal."""
    if self.ours is None or not self.reference:
      return self.ours
    return self.ours / self.theirs if self.theirs else None

  @property
  def met(self) -> bool | None:
    """None where there is no figure, or no goal."""
    if self.ratio is None or self.goal is None:
      return None
    better = (
      self.ratio <= self.goal if self.at_most else self.ratio >= self.goal
    )
    return bool(better)

  def to_json(self) -> dict[str, Any]:
    return {
      **dataclasses.asdict(self),
      'ratio': self.ratio,
      'met': self.met,
    }


def median(measured: Measured | None, name: str) -> float | None:
  """Over the repetitions; None if the candidate was not there."""
  if not measured:
    return None
  return statistics.median(values[name] for values in measured)


def share(part: float | None, whole: float | None) -> float | None:
  """What is missing from part to whole, of it; None if either is."""
  return None if part is None or whole is None else 1 - part / whole


def best(
  measured: Mapping[str, Measured], peers: Sequence[str], name: str
) -> tuple[str, float | None]:
  """The peer with the highest median, and it; those that are there."""
  found = {
    peer: median(measured[peer], name) for peer in peers if peer in measured
  }
  if not found:
    return peers[0], None
  top = max(found, key=found.get)
  return top, found[top]
