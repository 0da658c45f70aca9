"""Creates run directories and reads their config.json.

WORKDIR holds config.json, tokenizer/, checkpoints/<step>/, metrics.jsonl,
tensorboard/, scores.json and predictions/*.tsv.
"""

import dataclasses
import json
import pathlib
import subprocess
from typing import Any, NotRequired, TypedDict

import jax
from jax.experimental import multihost_utils

from gpt1_jax import revision, storage
from gpt1_jax.errors import UserError
from gpt1_jax.settings import TrainSettings
from gpt1_jax.train.checkpoint import CheckpointMeta

# Settings that may change when a run is resumed: they affect where data is,
# what is logged and kept, and how the computation is laid out.
_MAY_DIFFER = (
  'mesh',
  'model.attention',
  'model.remat',
  'train.log_every',
  'train.keep',
  'train.seeds',
  'train.microbatches',
  'data.path',
)


@dataclasses.dataclass(frozen=True)
class Pace:
  """Intervals at which a run logs, evaluates and saves.

  Attributes:
    log_every, eval_every, checkpoint_every: intervals in updates.
    checkpoint_minutes: a save is also due after so many minutes; 0 means never.
    stall_minutes: see `pulse.watched`.
    keep: number of latest checkpoints to keep.
    best_metric: score whose best checkpoint is also kept (higher is better);
      None keeps only the latest.
  """

  log_every: int
  eval_every: int
  checkpoint_every: int
  checkpoint_minutes: float
  stall_minutes: float
  keep: int
  best_metric: str | None = None

  def evaluates(self, done: int, num_steps: int) -> bool:
    """Returns True if the run is evaluated after `done` of its updates."""
    return done > 0 and (done == num_steps or done % self.eval_every == 0)


def pace(
  settings: TrainSettings,
  eval_every: int,
  checkpoint_every: int,
  best_metric: str | None = None,
) -> Pace:
  """Returns the pace that config.train sets."""
  return Pace(
    settings.log_every,
    eval_every,
    checkpoint_every,
    settings.checkpoint_minutes,
    settings.stall_minutes,
    settings.keep,
    best_metric,
  )


@dataclasses.dataclass(frozen=True)
class Run:
  """A training run, as passed to `loop.run_training`.

  Attributes:
    workdir: run directory.
    label: name on the progress line.
    seed: seeds the initial weights and dropout.
    pace: how often to log, evaluate and save.
    meta: metadata that every checkpoint records.
  """

  workdir: str
  label: str
  seed: int
  pace: Pace
  meta: CheckpointMeta


class RunHeader(TypedDict):
  """The content of a run's config.json.

  Attributes:
    command: 'pretrain', 'finetune' or 'convert'.
    config: the whole configuration, as JSON values.
    commit: the project's commit; None if unknown.
    model: the model's configuration, as JSON values.
    tokenizer_fingerprint: sha256 of the tokenizer, hex.
    parameters: number of parameters.
    num_steps: total number of updates.
    layers_transferred: blocks copied from the pretrained run (fine-tuning).
  """

  command: str
  config: dict[str, Any]
  commit: str | None
  model: dict[str, Any]
  tokenizer_fingerprint: str
  parameters: int
  num_steps: int
  layers_transferred: NotRequired[int | None]


def start(
  workdir: str, command: str, config: dict[str, Any], facts: dict[str, Any]
) -> None:
  """Creates the run directory, or checks that it holds the same run.

  All hosts check before host 0 writes, and all wait until it has written.

  Args:
    workdir: run directory.
    command: 'pretrain', 'finetune' or 'convert'.
    config: the whole configuration, as JSON values.
    facts: the other keys of `RunHeader`.

  Raises:
    UserError: the directory holds another run; the message names the settings
      that differ.
  """
  config = json.loads(json.dumps(config))
  path = storage.path(workdir) / 'config.json'
  exists = path.exists()
  if exists:
    _check_same(workdir, command, config)
  _wait_for_all_hosts(f'checked {path}')
  if not exists and jax.process_index() == 0:
    path.parent.mkdir(parents=True, exist_ok=True)
    header = {'command': command, 'config': config, 'commit': commit(), **facts}
    storage.write_json(path, header)
  _wait_for_all_hosts(f'wrote {path}')


def load(workdir: str) -> RunHeader:
  """Reads a run's config.json.

  Raises:
    UserError: the file is missing or damaged.
  """
  path = storage.path(workdir) / 'config.json'
  if not path.exists():
    raise UserError(
      f'{workdir}: not a run (no config.json); give the --workdir of a '
      'pretrain or finetune command'
    )
  return storage.read_json(path)


def commit() -> str | None:
  """Returns the project's commit, with '+' for uncommitted changes.

  Calls git in a checkout; otherwise (archive, image) reads revision.py. Returns
  None if the commit is unknown.
  """
  here = pathlib.Path(__file__).resolve().parents[2]
  if not (here / '.git').exists():
    return None if '$' in revision.COMMIT else revision.COMMIT[:12]
  try:
    described = subprocess.run(
      ['git', 'describe', '--always', '--abbrev=12', '--dirty=+'],
      cwd=here,
      capture_output=True,
      text=True,
      check=True,
    )
  except (OSError, subprocess.CalledProcessError):
    return None
  return described.stdout.strip()


def _check_same(workdir: str, command: str, config: dict[str, Any]) -> None:
  found = load(workdir)
  if found['command'] != command:
    raise UserError(
      f'{workdir}: holds a {found["command"]} run; give another --workdir'
    )
  different = _differences(found['config'], config)
  if different:
    raise UserError(
      f'{workdir}: holds a run with another {", ".join(different)}; '
      'give another --workdir or the same configuration'
    )


def _differences(a: Any, b: Any, prefix: str = '') -> list[str]:
  """Returns the dotted names of settings that differ but must match."""
  if prefix.rstrip('.') in _MAY_DIFFER:
    return []
  if isinstance(a, dict) and isinstance(b, dict):
    keys = sorted(set(a) | set(b))
    return [
      name
      for key in keys
      for name in _differences(a.get(key), b.get(key), f'{prefix}{key}.')
    ]
  return [] if a == b else [prefix.rstrip('.')]


def _wait_for_all_hosts(moment: str) -> None:
  if jax.process_count() > 1:
    multihost_utils.sync_global_devices(moment)
