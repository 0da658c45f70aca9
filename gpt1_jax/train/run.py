"""A run on disk: starts its folder, and reads its config.json back.

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
from gpt1_jax.train.checkpoint import CheckpointMeta

# Settings that a resumed run may change: where data lies, what is printed and
# kept, the shape of the machine, and what is recomputed on it.
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
  """How often a run logs, evaluates and saves, in updates.

  Attributes:
    log_every, eval_every, checkpoint_every: in updates.
    keep: latest checkpoints that stay.
    best_metric: score by which the best checkpoint is kept as well (higher is
      better); None keeps the latest only.
  """

  log_every: int
  eval_every: int
  checkpoint_every: int
  keep: int
  best_metric: str | None = None


@dataclasses.dataclass(frozen=True)
class Run:
  """One training run, as `loop.run_training` needs it.

  Attributes:
    workdir: its folder.
    label: what the progress line calls it.
    seed: of the initial weights and of dropout.
    pace: how often it logs, evaluates and saves.
    meta: what each checkpoint records.
  """

  workdir: str
  label: str
  seed: int
  pace: Pace
  meta: CheckpointMeta


class RunHeader(TypedDict):
  """config.json of a run.

  Attributes:
    command: 'pretrain', 'finetune' or 'convert'.
    config: the whole configuration, as plain values.
    commit: of the project; None if unknown.
    model: the network, as plain values.
    tokenizer_fingerprint: sha256 of the tokenizer, hex.
    parameters: their number.
    num_steps: updates of the whole run.
    layers_transferred: blocks taken from the pretrained run (fine-tuning).
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
  """Creates the run's folder, or checks that it holds this very run.

  Every host checks before one of them writes, and none continues before it
  has.

  Args:
    workdir: folder of the run.
    command: 'pretrain', 'finetune' or 'convert'.
    config: the whole configuration, as plain values.
    facts: the other keys of `RunHeader`.

  Raises:
    UserError: the folder holds another run; the message names what differs.
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
  """Reads config.json of a run.

  Raises:
    UserError: there is none, or it is damaged.
  """
  path = storage.path(workdir) / 'config.json'
  if not path.exists():
    raise UserError(
      f'{workdir}: not a run (no config.json); give the --workdir of a '
      'pretrain or finetune command'
    )
  return storage.read_json(path)


def commit() -> str | None:
  """Returns the project's commit, with '+' if the tree has changes.

  Asks git in a checkout; elsewhere (an archive, an image) reads revision.py.
  None means unknown.
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
  """Returns the dotted names of settings that differ and must not."""
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
