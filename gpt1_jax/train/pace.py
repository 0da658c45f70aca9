"""Decides when a run logs, evaluates and saves."""

import dataclasses

from gpt1_jax.settings import TrainSettings


@dataclasses.dataclass(frozen=True)
class Pace:
  """Intervals at which a run logs, evaluates and saves.

  Attributes:
    settings: config.train.
    eval_every, checkpoint_every: intervals in updates.
    best_metric: score whose best checkpoint is also kept (higher is better);
      None keeps only the latest.
    patience: evaluations without a better score before stopping; 0
      trains to the end.
  """

  settings: TrainSettings
  eval_every: int
  checkpoint_every: int
  best_metric: str | None = None
  patience: int = 0

  def logs(self, done: int, num_steps: int) -> bool:
    """Returns True if the metrics of update `done` are written."""
    return done % self.settings.log_every == 0 or done in (1, num_steps)

  def evaluates(self, done: int, num_steps: int) -> bool:
    """Returns True if the run is evaluated after `done` of its updates."""
    return done > 0 and (done == num_steps or done % self.eval_every == 0)
