"""What is on disk: folders of runs → runs, each assigned by its config.

A folder is a run (config.json), a run of several seeds (seed-N folders), or
holds such ones at any depth: what `finetune :all` and a sweep leave, or a
folder of everything.
"""

import dataclasses
import os
from collections.abc import Iterator, Sequence
from typing import Any

from gpt1_jax import storage
from gpt1_jax.errors import UserError
from gpt1_jax.reporting import paper
from gpt1_jax.tasks import initialization, summary
from gpt1_jax.train import run as run_lib, telemetry

LAYERS = 'some layers'  # transferred: Figure 2, left
OTHER = 'other'  # what the paper has not: two of these at once
_SEED = 'seed-'


@dataclasses.dataclass(frozen=True)
class Run:
  """A run, or several that differ by their seed alone.

  Attributes:
    name: where it lies, without what all runs of the report share.
    path: where it lies, resolved.
    facts: config.json: command, config, commit, model, parameters.
    scores: scores.json (over seeds as `summary.over_seeds` makes it), None
      where it is not finished.
    state: 'finished', or how far it is.
    rows: of metrics.jsonl, of the first seed.
    zero_shot: rows of zero_shot.jsonl.
    samples: samples.txt.
  """

  name: str
  path: storage.Path
  facts: dict[str, Any]
  scores: dict[str, Any] | None
  state: str
  rows: list[dict[str, Any]]
  zero_shot: list[dict[str, Any]]
  samples: str

  @property
  def command(self) -> str:
    return self.facts['command']

  @property
  def commit(self) -> str:
    return short_commit(self.facts['commit'])

  @property
  def task(self) -> str:
    """Of a fine-tuning run."""
    task = self.facts['config']['task']
    return task if isinstance(task, str) else task.get('name', 'own')

  @property
  def seeds(self) -> list[int]:
    """Of what is finished."""
    if not self.scores:
      return []
    return self.scores.get('seeds', [self.scores.get('seed', 0)])

  @property
  def depth(self) -> int:
    """Layers of the model; an LSTM has one and does not say so."""
    return self.facts['model'].get('n_layer', 1)

  @property
  def layers(self) -> int | None:
    """Those that came from pretraining; None from scratch."""
    config = run_lib.complete(self.facts['config'])
    if config['init_from'] == 'none':
      return None
    layers = config['transfer']['layers']
    return self.depth if layers == initialization.ALL_LAYERS else layers

  @property
  def variant(self) -> str:
    """Row of Table 5 that a fine-tuning run belongs to, `LAYERS` or `OTHER`.

    By what the configuration says, not by the folder's name.
    """
    config, model = self.facts['config'], self.facts['model']
    found = [
      name
      for name, here in (
        (paper.NO_PRETRAINING, self.layers is None),
        (LAYERS, self.layers not in (None, self.depth)),
        (paper.NO_AUXILIARY, config['head']['lm_coef'] == 0),
        (paper.LSTM, model.get('kind') == 'lstm'),
      )
      if here
    ]
    return OTHER if len(found) > 1 else (*found, paper.FULL)[0]

  def values(self, split: str, metric: str) -> list[float] | None:
    """One score a seed, or None where there is none."""
    try:
      value = self.scores['splits'][split][metric]
    except (KeyError, TypeError):
      return None
    spread = self.scores.get('spread', {}).get(split, {}).get(metric)
    return spread['values'] if spread else [value]


def short_commit(commit: str | None) -> str:
  """Eight digits, and '+' where the tree had changes."""
  if not commit:
    return 'unknown'
  return commit.rstrip('+')[:8] + '+' * commit.endswith('+')


def find(names: Sequence[str]) -> list[Run]:
  """The runs in the folders, in the order given and by name within a folder.

  Raises:
    UserError: a folder holds no run, or a file is damaged.
  """
  found: dict[storage.Path, Run] = {}
  for name in names:
    path = storage.path(name)
    if not path.is_dir():
      raise UserError(f'{name}: no such folder')
    folders = list(_walk(path))
    if not folders:
      raise UserError(
        f'{name}: not a run, and none below (no config.json); give the '
        '--workdir of a pretrain or finetune command, or a folder of such ones'
      )
    for folder in folders:
      found.setdefault(storage.resolved(folder), load(folder))
  runs = list(found.values())
  places = [os.fspath(run.path) for run in runs]
  if len({storage.is_remote(place) for place in places}) > 1:
    return [
      dataclasses.replace(run, name=place)
      for run, place in zip(runs, places, strict=True)
    ]
  # What all names begin with says nothing about any of them.
  shared = os.path.commonpath([os.path.dirname(place) for place in places])
  return [
    dataclasses.replace(run, name=os.path.relpath(place, shared))
    for run, place in zip(runs, places, strict=True)
  ]


def load(folder: storage.Path | str) -> Run:
  """The run, or the seeds, in one folder.

  Raises:
    UserError: there is no config.json, or a file is damaged.
  """
  folder = storage.path(folder)
  seeds = _seeds(folder)
  if seeds:
    return _of_seeds(folder, [load(seed) for seed in seeds])
  facts = run_lib.load(str(folder))
  scores = folder / 'scores.json'
  samples = folder / 'samples.txt'
  found = storage.read_json(scores) if scores.exists() else None
  return Run(
    str(folder),
    storage.resolved(folder),
    facts,
    found,
    'finished' if found else 'not finished',
    telemetry.read_rows(folder / 'metrics.jsonl'),
    telemetry.read_rows(folder / 'zero_shot.jsonl'),
    samples.read_text(encoding='utf-8') if samples.exists() else '',
  )


def described(run: Run) -> str:
  """What a run was taken for, in words."""
  if run.command == 'finetune':
    seeds = f', {len(run.seeds)} seeds' if len(run.seeds) > 1 else ''
    return f'{run.task}, {run.variant}{seeds}, {run.state}'
  rows = f', {len(run.zero_shot)} zero-shot scores' if run.zero_shot else ''
  return f'{run.command}{rows}, {run.state}'


def counts(runs: Sequence[Run]) -> str:
  """What was found, in words."""
  parts = [
    ('pretraining', [r for r in runs if r.command == 'pretrain']),
    ('converted', [r for r in runs if r.command == 'convert']),
    ('fine-tuning', [r for r in runs if r.command == 'finetune']),
    ('not finished', [r for r in runs if r.state.startswith('not')]),
    ('with zero-shot scores', [r for r in runs if r.zero_shot]),
  ]
  said = ', '.join(f'{len(some)} {what}' for what, some in parts if some)
  return f'{len(runs)} run{"s" * (len(runs) != 1)}: {said}'


def _walk(top: storage.Path) -> Iterator[storage.Path]:
  """Folders of runs and of seeds, depth first; never into a run."""
  for folder, below, files in storage.walk(top):
    below.sort(key=_natural)
    if 'config.json' in files or _seeds(folder):
      below.clear()
      yield folder


def _seeds(folder: storage.Path) -> list[storage.Path]:
  """seed-N folders that have begun, by their number."""
  found = [
    path.parent
    for path in folder.glob(f'{_SEED}*/config.json')
    if path.parent.name.removeprefix(_SEED).isdecimal()
  ]
  return sorted(found, key=lambda path: int(path.name.removeprefix(_SEED)))


def _natural(name: str) -> list[Any]:
  """Sorts layers-2 before layers-10."""
  digits = ''.join(c if c.isdecimal() else ' ' for c in name).split()
  words = ''.join(' ' if c.isdecimal() else c for c in name).split()
  return [words, [int(number) for number in digits]]


def _of_seeds(folder: storage.Path, each: list[Run]) -> Run:
  """One run of several; its scores are those of scores.json if it is there."""
  alone = (folder / 'config.json').exists()
  facts = run_lib.load(str(folder)) if alone else each[0].facts
  finished = [run for run in each if run.scores]
  path = folder / 'scores.json'
  scores = storage.read_json(path) if path.exists() else None
  wanted = len(each)
  if alone:
    wanted = max(wanted, facts['config']['train']['seeds'])
  elif len(finished) == wanted:
    scores = summary.over_seeds([run.scores for run in finished])
  state = 'finished'
  if not scores:
    state = f'not finished: {len(finished)} of {wanted} seeds'
  return Run(
    str(folder),
    storage.resolved(folder),
    facts,
    scores,
    state,
    each[0].rows,
    [],
    '',
  )
