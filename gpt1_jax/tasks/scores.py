"""Declares `Scores`, the contents of scores.json of a fine-tuning run."""

from typing import NotRequired, TypedDict, final

from gpt1_jax.config import Values

Metrics = dict[str, float]  # metric -> score between -1 and 1


class SplitCounts(TypedDict):
  """Counts the examples of a split, and those with a text cut to fit."""

  examples: int
  cut: int


class Spread(TypedDict):
  """Scores of several runs in the order of their seeds, and their range."""

  values: list[float]
  median: float
  minimum: float
  maximum: float


@final
class Scores(TypedDict):
  """Scores of one run, or the medians of runs that differ by their seed.

  Keys:
    task, kind: of the `Task`.
    split: the split that selects the checkpoint: 'dev'.
    examples: number of examples of that split.
    metric: the metric that selects the checkpoint.
    score: its value on that split.
    metrics: all metrics on that split.
    splits: split -> metrics, for all splits with labels but train.
    counts: split -> its number of examples, and how many are cut.
    remarks: reasons why a score says little, such as constant predictions.
    baselines: simple method -> metrics on that split; see `baselines`.
    step: updates after which the best checkpoint was saved; None over seeds.
    updates: updates that the run applied; None over seeds.
    num_steps: updates it was given; it applies fewer if its patience ends.
    seed: seed of the run; over seeds, that of the first.
    init_from: the pretrained run, or 'none'.
    model: the model's configuration, as JSON values.
    commit: revision of the code; None outside a repository.
    spread: split -> metric -> spread; only over seeds.
    seeds: all seeds; only over seeds.
    best_seed: seed with the highest score; only over seeds.
  """

  task: str
  kind: str
  split: str
  examples: int
  metric: str
  score: float
  metrics: Metrics
  splits: dict[str, Metrics]
  counts: dict[str, SplitCounts]
  remarks: list[str]
  baselines: dict[str, Metrics]
  step: int | None
  updates: int | None
  num_steps: int
  seed: int
  init_from: str
  model: Values
  commit: str | None
  spread: NotRequired[dict[str, dict[str, Spread]]]
  seeds: NotRequired[list[int]]
  best_seed: NotRequired[int]


def line(scores: Scores, patience: int) -> str:
  """Returns one line on a finished run."""
  done, planned = scores['updates'] or 0, scores['num_steps']
  text = (
    f'{scores["task"]} dev {scores["metric"]} {scores["score"]:.4f} on '
    f'{scores["examples"]} examples, best after update {scores["step"]}'
  )
  if done < planned:
    text += (
      f'; ended early, after {done} of {planned} updates: '
      f'train.patience is {patience}'
    )
  return text


@final
class Failure(TypedDict):
  """Takes the place of the scores of a failed task in results.json."""

  error: str
