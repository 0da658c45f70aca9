"""Finds run folders and reads each into a `RunRecord`.

A run folder holds config.json, or folders seed-N that do. Run folders may lie
at any depth below the folder that is searched.
"""

import dataclasses
import os
from collections.abc import Iterator, Mapping, Sequence
from typing import Any, TypedDict

from gpt1_jax import storage
from gpt1_jax.errors import UserError
from gpt1_jax.reporting import paper
from gpt1_jax.tasks import initialization, summary
from gpt1_jax.tasks.scores import Scores
from gpt1_jax.tasks.zero_shot import results
from gpt1_jax.train import run as run_lib, telemetry

_SEED = 'seed-'


class PretrainingScores(TypedDict):
  """The part of a pretraining run's scores.json that the report shows."""

  step: int
  tokens_seen: int
  eval_perplexity: float
  eval_word_perplexity: float


@dataclasses.dataclass(frozen=True)
class RunRecord:
  """A run folder in memory: one run, or runs that differ only by their seed.

  Attributes:
    name: path below the folder that all runs of the report share.
    path: resolved path.
    header: config.json.
    scores: scores.json of fine-tuning, summarised over seeds; None if
      unfinished.
    pretraining: scores.json of pretraining; None if unfinished.
    state: 'finished', or how far the run is.
    metrics: rows of metrics.jsonl, of the first seed.
    zero_shot: rows of zero_shot.jsonl.
    samples: samples.txt.
  """

  name: str
  path: storage.Path
  header: run_lib.RunHeader
  scores: Scores | None
  pretraining: PretrainingScores | None
  state: str
  metrics: Sequence[Mapping[str, Any]]
  zero_shot: Sequence[results.ZeroShotRow] = ()
  samples: str = ''

  @property
  def command(self) -> str:
    return self.header['command']

  @property
  def commit(self) -> str:
    return short_commit(self.header['commit'])

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
    return task if isinstance(task, str) else task.get('name', 'own')

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
    """Row of Table 5 of a fine-tuning run, `paper.LAYERS` or `paper.OTHER`.

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
    if 'spread' in self.scores:
      return self.scores['spread'][split][metric]['values']
    return [self.scores['splits'][split][metric]]

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


def find(names: Sequence[str]) -> list[RunRecord]:
  """Reads all runs in the folders, each once, sorted by name within a folder.

  Raises:
    UserError: a folder holds no run, or a file is damaged.
  """
  found: dict[storage.Path, RunRecord] = {}
  for name in names:
    path = storage.path(name)
    if not path.is_dir():
      raise UserError(f'{name}: no such folder')
    folders = list(_walk(path))
    if not folders:
      raise UserError(
        f'{name}: no run here or below (no config.json); give the --workdir '
        'of a pretrain or finetune command, or a folder that holds such runs'
      )
    for folder in folders:
      found.setdefault(storage.resolved(folder), load(folder))
  paths = [os.fspath(path) for path in found]
  if len({storage.is_remote(path) for path in paths}) > 1:
    short = paths  # a bucket and a local folder share no parent
  else:
    parent = os.path.commonpath([os.path.dirname(path) for path in paths])
    short = [os.path.relpath(path, parent) for path in paths]
  return [
    dataclasses.replace(run, name=name)
    for run, name in zip(found.values(), short, strict=True)
  ]


def load(folder: storage.Path | str) -> RunRecord:
  """Reads the run, or the runs of several seeds, in one folder.

  Raises:
    UserError: there is no config.json, or a file is damaged.
  """
  folder = storage.path(folder)
  if seeds := _seed_folders(folder):
    return _combine(folder, [load(seed) for seed in seeds])
  header = run_lib.load(str(folder))
  tuned = header['command'] == 'finetune'
  scores = _read_scores(folder)
  samples = folder / 'samples.txt'
  return RunRecord(
    name=str(folder),
    path=storage.resolved(folder),
    header=header,
    scores=scores if tuned else None,
    pretraining=None if tuned else scores,
    state='finished' if scores else 'not finished',
    metrics=telemetry.read_rows(folder / 'metrics.jsonl'),
    zero_shot=results.read_rows(folder),
    samples=samples.read_text(encoding='utf-8') if samples.exists() else '',
  )


def summarize(runs: Sequence[RunRecord]) -> str:
  """Returns one line that counts the runs by command and state."""
  counts = {
    'pretraining': sum(run.command == 'pretrain' for run in runs),
    'converted': sum(run.command == 'convert' for run in runs),
    'fine-tuning': sum(run.command == 'finetune' for run in runs),
    'not finished': sum(run.state.startswith('not') for run in runs),
    'with zero-shot scores': sum(bool(run.zero_shot) for run in runs),
  }
  parts = ', '.join(f'{n} {name}' for name, n in counts.items() if n)
  return f'{len(runs)} run{"s" * (len(runs) != 1)}: {parts}'


def _walk(top: storage.Path) -> Iterator[storage.Path]:
  """Yields run folders depth first, without those inside a run folder."""
  for folder, below, files in storage.walk(top):
    below.sort(key=_natural)
    if 'config.json' in files or _seed_folders(folder):
      below.clear()
      yield folder


def _seed_folders(folder: storage.Path) -> list[storage.Path]:
  """Returns the seed-N folders of started runs, sorted by N."""
  found = {
    path.parent.name.removeprefix(_SEED): path.parent
    for path in folder.glob(f'{_SEED}*/config.json')
  }
  return [found[n] for n in sorted(filter(str.isdecimal, found), key=int)]


def _natural(name: str) -> tuple[list[str], list[int]]:
  """Returns a sort key that puts layers-2 before layers-10."""
  digits = ''.join(c if c.isdecimal() else ' ' for c in name).split()
  words = ''.join(' ' if c.isdecimal() else c for c in name).split()
  return words, [int(number) for number in digits]


def _read_scores(folder: storage.Path) -> Any:
  path = folder / 'scores.json'
  return storage.read_json(path) if path.exists() else None


def _combine(folder: storage.Path, each: list[RunRecord]) -> RunRecord:
  """Combines the runs of a folder's seeds into one record.

  `finetune` writes config.json and, once all seeds are done, scores.json
  beside the seeds; a sweep writes neither.
  """
  header, scores = each[0].header, _read_scores(folder)
  finished = [run.scores for run in each if run.scores]
  wanted = len(each)
  if (folder / 'config.json').exists():
    header = run_lib.load(str(folder))
    wanted = max(wanted, header['config']['train']['seeds'])
  elif len(finished) == wanted:
    scores = summary.over_seeds(finished)
  state = 'finished'
  if not scores:
    state = f'not finished: {len(finished)} of {wanted} seeds'
  return RunRecord(
    name=str(folder),
    path=storage.resolved(folder),
    header=header,
    scores=scores,
    pretraining=None,
    state=state,
    metrics=each[0].metrics,
  )
