"""Creates run directories and reads their config.json.

WORKDIR holds config.json, history.jsonl (a row for each start), tokenizer/,
checkpoints/<step>/, ranking.json, metrics.jsonl, tensorboard/, samples.txt,
scores.json, predictions/ and, for tasks of GLUE, submission/; if asked,
profile/ and wandb/; while a process runs there, lock. `evaluate` adds
zero_shot.jsonl, zero_shot.svg and zero_shot/.
"""

import dataclasses
import json
import pathlib
import subprocess
from collections.abc import Iterator
from typing import Any, NotRequired, TypedDict, cast

import jax

from gpt1_jax import revision, storage
from gpt1_jax.config import Values
from gpt1_jax.corpus.tokenization import Tokenizer
from gpt1_jax.errors import UserError
from gpt1_jax.model import models
from gpt1_jax.train import file_shapes, hosts
from gpt1_jax.train.checkpoint import CheckpointMeta
from gpt1_jax.train.pace import Pace
from gpt1_jax.train.profiling import Window

# Settings that may change when a run is resumed: they affect its length, where
# data is, what is logged, evaluated and kept, and how it is computed.
_MAY_DIFFER = (
  'mesh',
  'model.attention',
  'model.dtype',
  'model.remat',
  'model.unroll',
  'train.num_steps',
  'train.num_epochs',
  'train.log_every',
  'train.eval_every',
  'train.checkpoint_every',
  'train.checkpoint_minutes',
  'train.stall_minutes',
  'train.keep',
  'train.patience',
  'train.skip_nonfinite',
  'train.sample_tokens',
  'train.wandb',
  'train.seeds',
  'train.microbatches',
  'data.path',
)
# Settings that change the length of a run, or which updates are scored.
_LENGTH = (
  'train.num_steps',
  'train.num_epochs',
  'train.eval_every',
  'train.patience',
)
# Settings that give a model other parameters: no state of the run fits it.
_SHAPE = {f'model.{name}' for name in models.SHAPE}

Changes = dict[str, list[Any]]  # setting -> (old value, new value)


@dataclasses.dataclass(frozen=True)
class Fork:
  """The run whose state another run starts from.

  Attributes:
    step: the checkpoint; None means the latest.
  """

  run: str
  step: int | None = None


@dataclasses.dataclass(frozen=True)
class Run:
  """A training run, as passed to `loop.run_training`.

  Attributes:
    header: the content of config.json.
    tokenizer: saved to WORKDIR/tokenizer.
    label: name on the progress line.
    seed: seeds the initial weights and dropout.
    meta: metadata that each checkpoint records.
    fork: the run whose state is the initial state; None starts from scratch.
    profile: the updates to trace, if any.
  """

  workdir: str
  header: 'RunHeader'
  tokenizer: Tokenizer
  label: str
  seed: int
  pace: Pace
  meta: CheckpointMeta
  fork: Fork | None = None
  profile: Window | None = None


class Origin(TypedDict):
  """The run and the step whose state another run started from."""

  run: str
  step: int


class RunDescription(TypedDict):
  """Describes a run in config.json, beside its configuration.

  Attributes:
    model: the model's configuration, as JSON values.
    tokenizer_fingerprint: sha256 of the tokenizer, hex.
    data_fingerprint: sha256 of the shards' checksums, hex (pretraining).
    parameters: number of parameters.
    num_steps: total number of updates.
    layers_transferred: blocks copied from the pretrained run (fine-tuning).
    forked_from: where the run's first state came from.
  """

  model: Values
  tokenizer_fingerprint: str
  data_fingerprint: NotRequired[str]
  parameters: int
  num_steps: int
  layers_transferred: NotRequired[int | None]
  forked_from: NotRequired[Origin]


class RunHeader(RunDescription):
  """The content of a run's config.json.

  Attributes:
    command: 'pretrain', 'finetune' or 'convert'.
    config: the whole configuration, as JSON values.
    commit: the project's commit; None if unknown.
  """

  command: str
  config: Values
  commit: str | None


def header(
  command: str, config: Values, description: RunDescription
) -> RunHeader:
  """Returns the content of config.json."""
  config = json.loads(json.dumps(config))  # tuples become lists
  own = {'command': command, 'config': config, 'commit': commit()}
  return cast(RunHeader, {**own, **description})


def start(
  workdir: str, command: str, config: Values, description: RunDescription
) -> None:
  """Checks and writes config.json of a run that needs no training.

  Raises:
    UserError: see `changes`.
  """
  changes(workdir, command, config)
  record(workdir, header(command, config, description))


def changes(workdir: str, command: str, config: Values) -> Changes | None:
  """Checks that a directory is free or holds this run; writes nothing.

  Returns:
    The settings that changed since the last start; None if there is no run.

  Raises:
    UserError: the directory holds another run, or a setting changed that may
      not; the message names it.
  """
  if not (storage.path(workdir) / 'config.json').exists():
    return None
  found = load_any(workdir)
  if found['command'] != command:
    raise UserError(
      f'{workdir}: holds a {found["command"]} run; use another --workdir'
    )
  config = json.loads(json.dumps(config))
  different = dict(_differences(found['config'], config))
  refused = [name for name in different if not _may_differ(name)]
  if refused:
    fits = _SHAPE.isdisjoint(refused)
    raise UserError(
      f'{workdir}: holds a run with a different {", ".join(refused)}; give the '
      'same configuration, or another --workdir'
      f'{_fork_flags(workdir, command) if fits else ""}'
    )
  return different


def _fork_flags(workdir: str, command: str) -> str:
  """Names the flags that start from a run's weights under other settings."""
  if command != 'pretrain':
    return ''
  return (
    f' (with --fork_from={workdir} to start from its state, with '
    f'--config.init_from={workdir} to start from its weights)'
  )


def has_begun(workdir: str) -> bool:
  """Returns True if the directory holds a checkpoint, complete or not."""
  folder = storage.path(workdir) / 'checkpoints'
  return folder.is_dir() and any(p.name.isdigit() for p in folder.iterdir())


def same_length(changes: Changes | None) -> bool:
  """Returns True if a finished run stays finished with these changes."""
  return not any(name in _LENGTH for name in changes or ())


def record(workdir: str, header: RunHeader) -> None:
  """Writes config.json; all hosts wait until host 0 has written it."""
  path = storage.path(workdir) / 'config.json'
  hosts.meet(f'checked {path}')
  if jax.process_index() == 0:
    path.parent.mkdir(parents=True, exist_ok=True)
    if not path.exists() or storage.read_json(path) != header:
      storage.write_json(path, header)
  hosts.meet(f'wrote {path}')


def load(workdir: str) -> RunHeader:
  """Reads a run's config.json; raises UserError if missing or damaged."""
  path = storage.path(workdir) / 'config.json'
  found = load_any(workdir)
  return cast(RunHeader, file_shapes.check(found, path, file_shapes.HEADER))


def load_any(workdir: str) -> RunHeader:
  """Reads config.json, of which only `command` and `config` are checked.

  Raises:
    UserError: it is missing or damaged.
  """
  path = storage.path(workdir) / 'config.json'
  if not path.exists():
    raise UserError(
      f'{workdir}: not a run (no config.json); give the --workdir of a '
      'pretrain or finetune command'
    )
  match found := storage.read_json(path):
    case {'command': str(), 'config': dict()}:
      return cast(RunHeader, found)
    case {'model_type': _}:
      raise UserError(f'{path}: belongs to a Hugging Face folder, not a run')
  raise UserError(f'{path}: damaged (command or config is missing)')


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


def _may_differ(name: str) -> bool:
  return name in _MAY_DIFFER or name.partition('.')[0] in _MAY_DIFFER


def _differences(
  a: Any, b: Any, prefix: str = ''
) -> Iterator[tuple[str, list[Any]]]:
  """Yields the dotted names of settings that differ, with both values."""
  if isinstance(a, dict) and isinstance(b, dict):
    for key in sorted(set(a) | set(b)):
      yield from _differences(a.get(key), b.get(key), f'{prefix}{key}.')
  elif a != b:
    yield prefix.rstrip('.'), [a, b]
