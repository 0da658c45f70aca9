"""Declares `RunRecord`, a run as the report sees it."""

import dataclasses
from collections.abc import Mapping, Sequence
from typing import Any

from gpt1_jax import storage
from gpt1_jax.reporting import paper
from gpt1_jax.tasks import initialization
from gpt1_jax.tasks.zero_shot import results
from gpt1_jax.train import file_shapes, run as run_lib


@dataclasses.dataclass(frozen=True)
class RunRecord:
  """The content of a run folder: one run, or runs that differ only by seed.

  Attributes:
    name: path relative to the folder that all runs of the report share.
    scores: scores.json of fine-tuning, summarised over seeds; None if
      unfinished.
    pretraining: scores.json of pretraining; None if unfinished.
    state: 'finished', or how far the run is.
    metrics: rows of metrics.jsonl, of the first seed.
    commits: of the seeds; empty for a run of one.
  """

  name: str
  path: storage.Path
  header: run_lib.RunHeader
  scores: file_shapes.TuningScores | None
  pretraining: file_shapes.PretrainingScores | None
  state: str
  metrics: Sequence[Mapping[str, Any]]
  zero_shot: Sequence[results.ZeroShotScore] = ()
  samples: str = ''
  commits: Sequence[str | None] = ()

  @property
  def command(self) -> str:
    return self.header['command']

  @property
  def commit(self) -> str:
    commits = map(short_commit, self.commits or [self.header['commit']])
    return ', '.join(dict.fromkeys(commits))

  @property
  def finished(self) -> bool:
    return bool(self.scores or self.pretraining)

  @property
  def is_lstm(self) -> bool:
    return self.header['model'].get('kind') == 'lstm'

  @property
  def task(self) -> str:
    """Name of the task of a fine-tuning run."""
    task = self.header['config']['task']
    return task if isinstance(task, str) else str(task.get('name', 'own'))

  @property
  def seeds(self) -> list[int]:
    """Seeds of the finished runs."""
    if not self.scores:
      return []
    return self.scores.get('seeds', [self.scores['seed']])

  @property
  def depth(self) -> int:
    """Number of layers; an LSTM has one, which its header does not state."""
    return self.header['model'].get('n_layer', 1)

  @property
  def layers(self) -> int | None:
    """Number of pretrained layers transferred; None from scratch."""
    config = self.header['config']
    if config['init_from'] == initialization.SCRATCH:
      return None
    layers = config['transfer']['layers']
    return self.depth if layers == initialization.ALL_LAYERS else layers

  @property
  def variant(self) -> str:
    """The row of Table 5 of a fine-tuning run, or `paper.LAYERS` or `OTHER`.

    The configuration decides, not the folder's name.
    """
    layers = self.layers
    deviations = {
      paper.NO_PRETRAINING: layers is None,
      paper.LAYERS: layers not in (None, self.depth),
      paper.NO_AUXILIARY: self.header['config']['head']['lm_coef'] == 0,
      paper.LSTM: self.is_lstm,
    }
    found = [name for name, holds in deviations.items() if holds]
    return paper.OTHER if len(found) > 1 else (*found, paper.FULL)[0]

  def values(self, split: str, metric: str) -> list[float]:
    """Returns the score of each seed; empty if there is none."""
    if not self.scores or metric not in self.scores['splits'].get(split, {}):
      return []
    spread = self.scores.get('spread', {}).get(split, {}).get(metric)
    return (
      spread['values'] if spread else [self.scores['splits'][split][metric]]
    )

  @property
  def is_own_task(self) -> bool:
    """True if the task's files are the user's, whatever its name."""
    return not isinstance(self.header['config']['task'], str)

  def examples(self, split: str) -> str:
    """Returns a split and its number of examples: 'dev, 277'.

    A user's own task, which may have the name of the paper's, has 'own dev'.
    """
    own = 'own ' if self.is_own_task else ''
    counts = self.scores['counts'] if self.scores else {}
    number = f', {counts[split]["examples"]:,}' if split in counts else ''
    return f'{own}{split}{number}'

  def points(self, name: str) -> list[tuple[int, float]]:
    """Returns (update, value) for every row of metrics.jsonl with a metric."""
    return [
      (row['step'], row[name])
      for row in self.metrics
      # Skips text, NaN and numbers too large to plot.
      if isinstance(row.get(name), int | float) and abs(row[name]) < 1e300
    ]

  def describe(self) -> str:
    """Returns one line: command or task, row of Table 5, seeds and state."""
    if self.command == 'finetune':
      seeds = f', {len(self.seeds)} seeds' if len(self.seeds) > 1 else ''
      return f'{self.task}, {self.variant}{seeds}, {self.state}'
    count = len(self.zero_shot)
    scores = f', {count} zero-shot scores' if count else ''
    return f'{self.command}{scores}, {self.state}'


def short_commit(commit: str | None) -> str:
  """Returns eight digits of a commit; '+' marks uncommitted changes."""
  if not commit:
    return 'unknown'
  return commit.rstrip('+')[:8] + '+' * commit.endswith('+')
