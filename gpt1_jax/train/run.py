"""A run on disk: WORKDIR/config.json, its tokenizer, what it reads back.

Layout: config.json, tokenizer/, checkpoints/<step>/, metrics.jsonl,
tensorboard/, scores.json, predictions/*.tsv.
"""

import json
import pathlib
import subprocess
from typing import Any

import jax
from jax.experimental import multihost_utils

from gpt1_jax import revision, storage
from gpt1_jax.errors import UserError

# What may differ between a run and its resumption: where things lie, how much
# is printed and kept, the shape of the machine, and what is recomputed there.
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
# Settings younger than some runs, and what those runs had in their place.
_YOUNGER = {
  'model': {'kind': 'gpt', 'attention': 'auto'},
  'transfer': {'layers': -1},
}


def start(workdir: str, command: str, config: dict[str, Any], facts: dict):
  """Makes the run's folder, or checks that the one there is the same run.

  Every host looks before one of them writes, and none goes on before it has.

  Args:
    workdir: the run.
    command: 'pretrain' or 'finetune'.
    config: the whole configuration, as plain values.
    facts: more to record (parameters, tokenizer, ...).

  Raises:
    UserError: the folder holds another run; the message names what differs.
  """
  config = json.loads(json.dumps(config))
  path = storage.path(workdir) / 'config.json'
  there = path.exists()
  if there:
    _check_same(workdir, command, config)
  _meet('looked at', path)
  if not there and jax.process_index() == 0:
    storage.write_json(
      path, {'command': command, 'config': config, 'commit': commit(), **facts}
    )
  _meet('wrote', path)


def _check_same(workdir: str, command: str, config: dict[str, Any]) -> None:
  there = load(workdir)
  if there['command'] != command:
    raise UserError(
      f'{workdir}: holds a {there["command"]} run; give another --workdir'
    )
  different = _differences(complete(there['config']), complete(config))
  if different:
    raise UserError(
      f'{workdir}: holds a run with another {", ".join(different)}; '
      'give another --workdir or the same configuration'
    )


def _meet(what: str, path: storage.Path) -> None:
  """Waits until all hosts are here."""
  if jax.process_count() > 1:
    multihost_utils.sync_global_devices(f'{what} {path}')


def load(workdir: str) -> dict[str, Any]:
  """config.json of a run.

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
  """The project's commit, with '+' if the tree has changes; None if unknown.

  Asked of git in a checkout; elsewhere (an archive, an image) what was written
  into revision.py.
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


def complete(config: dict[str, Any]) -> dict[str, Any]:
  """The configuration with the younger settings, if it is an older one."""
  return config | {
    name: values | config.get(name, {}) for name, values in _YOUNGER.items()
  }


def _differences(a: Any, b: Any, prefix: str = '') -> list[str]:
  """Dotted names of the settings that differ and may not."""
  if prefix.rstrip('.') in _MAY_DIFFER:
    return []
  if isinstance(a, dict) and isinstance(b, dict):
    out = []
    for key in sorted(set(a) | set(b)):
      out += _differences(a.get(key), b.get(key), f'{prefix}{key}.')
    return out
  return [] if a == b else [prefix.rstrip('.')]
