"""A compiled train step on disk: made without a TPU, loaded on the slice.

A file is one line of JSON, which says what was compiled, and jax's serialised
executable. It is refused unless the very program (its lowered text), the
devices, the mesh and the versions are those of the run that loads it. Loading
runs what the file holds (jax unpickles it): load only files you trust.
"""

import dataclasses
import hashlib
import importlib.metadata
import json
from typing import Any

import jax
from jax.experimental import serialize_executable

from gpt1_jax import storage
from gpt1_jax.config import PretrainConfig, as_dict
from gpt1_jax.errors import UserError
from gpt1_jax.train import program as program_lib

# What of the header must be the same, and what to say of it.
_CHECKED = {
  'jax': 'version of jax',
  'jaxlib': 'version of jaxlib',
  'libtpu': 'version of libtpu',
  'device_kind': 'kind of device',
  'devices': 'number of devices',
  'mesh': 'mesh (data x fsdp x tensor)',
  'program': 'program',
}
# Settings that are no part of the step.
_NO_PART = {
  f'config.{name}'
  for name in (
    'data.path',
    'data.seed',
    'data.cross_documents',
    'train.checkpoint_every',
    'train.eval_every',
    'train.keep',
    'train.log_every',
    'train.seed',
  )
}


def save(
  path: str,
  program: program_lib.Program,
  compiled: Any,
  config: PretrainConfig,
) -> None:
  """Writes the executable atomically.

  Args:
    path: the file.
    program: what was compiled.
    compiled: `program.lower().compile()`.
    config: to name what differs when another run loads it.
  """
  payload, _, _ = serialize_executable.serialize(compiled)
  header = {**_header(program, program.lower()), 'config': as_dict(config)}
  storage.write_bytes(path, json.dumps(header).encode() + b'\n' + payload)


def load(
  path: str, program: program_lib.Program, config: PretrainConfig
) -> program_lib.Program:
  """The program with the train step of a file.

  Raises:
    UserError: it is no such file, or of another program, machine or version;
      the message says what differs.
  """
  try:
    first, _, payload = storage.path(path).read_bytes().partition(b'\n')
    header = json.loads(first)
    there = {key: header[key] for key in [*_CHECKED, 'config']}
  except (ValueError, KeyError, TypeError):
    raise UserError(
      f'{path}: not an executable of launch/aot_compile.py --save'
    ) from None
  lowered = program.lower()
  here = _header(program, lowered)
  for key, words in _CHECKED.items():
    if there[key] == here[key]:
      continue
    if key != 'program':
      raise UserError(
        f'{path}: was compiled for another {words}: {there[key]}, and here it '
        f'is {here[key]}; compile it anew, or leave --executable out'
      )
    ours = json.loads(json.dumps(as_dict(config)))
    differ = ', '.join(
      name
      for name in _differences(there['config'], ours)
      if name not in _NO_PART
    ) or ("the vocabulary's size, the number of updates or the code")
    raise UserError(
      f'{path}: was compiled for another program: {differ} differ; compile it '
      'anew, or leave --executable out'
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


def _header(program: program_lib.Program, lowered: Any) -> dict[str, Any]:
  devices = program.mesh.devices
  on_tpu = devices.flat[0].platform == 'tpu'
  return {
    'jax': jax.__version__,
    'jaxlib': importlib.metadata.version('jaxlib'),
    'libtpu': libtpu_version() if on_tpu else None,
    'device_kind': devices.flat[0].device_kind,
    'devices': int(devices.size),
    'mesh': list(devices.shape),
    'program': hashlib.sha256(lowered.as_text().encode()).hexdigest(),
  }


def libtpu_version() -> str | None:
  """None where it is not installed."""
  try:
    return importlib.metadata.version('libtpu')
  except importlib.metadata.PackageNotFoundError:
    return None


def _differences(a: Any, b: Any, prefix: str = 'config.') -> list[str]:
  """Dotted names of the settings that differ."""
  if isinstance(a, dict) and isinstance(b, dict):
    out = []
    for key in sorted(set(a) | set(b)):
      out += _differences(a.get(key), b.get(key), f'{prefix}{key}.')
    return out
  return [] if a == b else [prefix.rstrip('.')]
