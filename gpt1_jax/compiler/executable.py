"""Saves a compiled train step to a file and loads it on the slice.

A file holds one line of JSON (the `_Header`) and jax's serialised executable.
It loads only for the same program (lowered text), devices, mesh and versions.
Loading executes code from the file (jax unpickles it): only load trusted files.
"""

import dataclasses
import hashlib
import importlib.metadata
import json
from typing import Any

import jax
from jax.experimental import serialize_executable

from gpt1_jax import storage
from gpt1_jax.config import PretrainConfig, as_dict, as_flags
from gpt1_jax.errors import UserError
from gpt1_jax.train import program as program_lib

# Settings that do not affect the compiled step.
_NOT_COMPILED = frozenset(
  f'--config.{name}'
  for name in (
    'init_from',
    'data.path',
    'data.seed',
    'data.cross_documents',
    'train.checkpoint_every',
    'train.checkpoint_minutes',
    'train.stall_minutes',
    'train.eval_every',
    'train.keep',
    'train.log_every',
    'train.seed',
  )
)


@dataclasses.dataclass(frozen=True)
class _Header:
  """Describes the compiled step; all fields except `config` must match."""

  jax_version: str
  jaxlib_version: str
  libtpu_version: str | None
  device_kind: str
  number_of_devices: int
  mesh: str
  program: str
  config: list[str]


def save(
  path: str,
  program: program_lib.Program,
  compiled: jax.stages.Compiled,
  config: PretrainConfig,
) -> None:
  """Writes a compiled step atomically.

  Args:
    path: file to write.
    program: the program that was compiled.
    compiled: `program.lower().compile()`.
    config: the program's configuration; `load` compares it to name the settings
      that differ.
  """
  payload, _, _ = serialize_executable.serialize(compiled)
  header = dataclasses.asdict(_header(program, program.lower(), config))
  storage.write_bytes(path, json.dumps(header).encode() + b'\n' + payload)


def load(
  path: str, program: program_lib.Program, config: PretrainConfig
) -> program_lib.Program:
  """Returns the program with its train step loaded from a file.

  Raises:
    UserError: the file is not an executable, or was compiled for a different
      program, machine or version.
  """
  first, _, payload = storage.path(path).read_bytes().partition(b'\n')
  try:
    saved = _Header(**json.loads(first))
  except (ValueError, TypeError):
    raise UserError(
      f'{path}: not an executable saved by launch/aot_compile.py --save'
    ) from None
  lowered = program.lower()
  wanted = _header(program, lowered, config)
  for key, value in dataclasses.asdict(wanted).items():
    then, name = getattr(saved, key), key.replace('_', ' ')
    if key == 'config' or then == value:
      continue
    differing = f'{then}, but here it is {value}'
    if key == 'program':
      changed = set(saved.config) ^ set(wanted.config)
      keys = {line.partition('=')[0] for line in changed} - _NOT_COMPILED
      differing = ', '.join(sorted(keys)) or (
        "the vocabulary's size, the number of updates or the code"
      )
      differing += ' differ'
    raise UserError(
      f'{path}: was compiled for a different {name}: {differing}; compile it '
      'again, or leave out --executable'
    )
  devices = list(program.mesh.devices.flat)
  step = serialize_executable.deserialize_and_load(
    payload,
    lowered.in_tree,
    lowered.out_tree,
    backend=devices[0].client,
    execution_devices=devices,
  )
  return dataclasses.replace(program, train_step=step)


def _header(
  program: program_lib.Program, lowered: Any, config: PretrainConfig
) -> _Header:
  devices = program.mesh.devices
  device = devices.flat[0]
  axes = (f'{size} {name}' for name, size in program.mesh.shape.items())
  return _Header(
    jax_version=jax.__version__,
    jaxlib_version=importlib.metadata.version('jaxlib'),
    libtpu_version=libtpu_version() if device.platform == 'tpu' else None,
    device_kind=device.device_kind,
    number_of_devices=devices.size,
    mesh=' x '.join(axes),
    program=hashlib.sha256(lowered.as_text().encode()).hexdigest(),
    config=as_flags(as_dict(config)).splitlines(),
  )


def libtpu_version() -> str | None:
  """Returns the version of libtpu, or None if it is not installed."""
  try:
    return importlib.metadata.version('libtpu')
  except importlib.metadata.PackageNotFoundError:
    return None
