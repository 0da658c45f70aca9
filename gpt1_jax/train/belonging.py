"""Checks by fingerprints that run, checkpoint, tokenizer and shards match.

A run, its checkpoints, its tokenizer and its shards each record the tokenizer's
fingerprint; the run also records that of the shards.
"""

import fnmatch

from gpt1_jax import storage
from gpt1_jax.corpus import tokenization
from gpt1_jax.errors import UserError
from gpt1_jax.train import run as run_lib
from gpt1_jax.train.checkpoint import CheckpointMeta

# Names that a directory without a run may hold: logs, and files that a start
# writes before config.json.
_BEFORE = (
  'lock', 'tokenizer', 'checkpoints', 'wandb', '*.tmp', '.*', '*log*', '*.out',
  '*.err',
)  # fmt: skip
# Files that tell what else a folder is.
_KINDS = {
  'meta.json': 'prepared data',
  'results.json': 'the runs of several tasks',
  'summary.json': 'the runs of a sweep',
  'report.html': 'a report',
  'params_shapes.json': "OpenAI's arrays",
  'model.safetensors': 'a Hugging Face folder',
  'pytorch_model.bin': 'a Hugging Face folder',
}


def check(workdir: str, header: run_lib.RunHeader) -> None:
  """Checks that a run resumes with its own tokenizer and shards.

  Args:
    workdir: run directory; may be new.
    header: the new content of config.json.

  Raises:
    UserError: the tokenizer or the shards differ from the run's, or the
      directory holds something other than a run.
  """
  if not (storage.path(workdir) / 'config.json').exists():
    check_free(workdir)
    return
  found = run_lib.load_any(workdir)
  if found.get('tokenizer_fingerprint') != header['tokenizer_fingerprint']:
    raise UserError(
      f'{workdir}: holds a run with a different tokenizer; use another '
      f'--workdir, or data that was prepared with --tokenizer={workdir}'
    )
  data = found.get('data_fingerprint'), header.get('data_fingerprint')
  if None not in data and data[0] != data[1]:
    where = found['config'].get('data')
    path = where.get('path') if isinstance(where, dict) else 'unknown'
    raise UserError(
      f'{workdir}: holds a run on other shards ({path}): give those, or '
      f'another --workdir (with --fork_from={workdir} to keep its state)'
    )
  if (storage.path(workdir) / 'tokenizer').exists():
    _compare(workdir, header['tokenizer_fingerprint'], 'config.json')


def check_free(folder: str, *own: str) -> None:
  """Refuses a folder that holds anything other than runs.

  Args:
    folder: a directory without config.json, or a missing one.
    *own: patterns of names that it may hold.

  Raises:
    UserError: it holds something else; the message names it.
  """
  place = storage.path(folder)
  if run_lib.has_begun(folder):
    raise UserError(
      f'{folder}: its config.json is missing; restore it from a copy, or use '
      'another folder'
    )
  foreign = [
    path.name
    for path in (place.iterdir() if place.exists() else ())
    if not any(fnmatch.fnmatch(path.name, each) for each in (*_BEFORE, *own))
  ]
  if foreign:
    raise UserError(
      f'{folder}: holds {_kind(place, foreign)}; use another folder'
    )


def _kind(place: storage.Path, names: list[str]) -> str:
  """Describes what a folder holds."""
  for name, kind in _KINDS.items():
    if (place / name).exists():
      return f'{kind} ({name})'
  return f'other files or folders, such as {min(names)}'


def tokenizer(workdir: str, meta: CheckpointMeta) -> tokenization.Tokenizer:
  """Loads a run's tokenizer; it must match the checkpoint.

  Raises:
    UserError: it is missing, damaged or replaced; or the run's config.json is
      damaged or belongs to another run.
  """
  if (storage.path(workdir) / 'config.json').exists():
    recorded = run_lib.load_any(workdir).get('tokenizer_fingerprint')
    if recorded != meta.tokenizer_fingerprint:
      raise UserError(
        f'{workdir}/config.json: its tokenizer differs from the checkpoint; '
        'restore it from a copy'
      )
  return _compare(workdir, meta.tokenizer_fingerprint, 'the checkpoint')


def shards_tokenizer(path: str, fingerprint: str) -> tokenization.Tokenizer:
  """Loads the tokenizer of shards; it must match their meta.json.

  Raises:
    UserError: it is missing, damaged or replaced.
  """
  return _compare(path, fingerprint, 'meta.json')


def _compare(
  path: str, fingerprint: str, source: str
) -> tokenization.Tokenizer:
  found = tokenization.load(path)
  if found.fingerprint != fingerprint:
    raise UserError(
      f'{path}: its tokenizer is damaged or has been replaced: its sha256 '
      f'begins with {found.fingerprint[:12]}, the one in {source} with '
      f'{fingerprint[:12]}; restore its files'
    )
  return found
