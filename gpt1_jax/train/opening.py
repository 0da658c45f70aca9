"""Prints devices, model and data at the start of a run."""

import os
import pathlib
import shutil
from collections.abc import Iterator

import jax

from gpt1_jax import storage
from gpt1_jax.model import models
from gpt1_jax.train import hosts
from gpt1_jax.train.program import Program
from gpt1_jax.train.run import Run

# Files of accelerators that JAX should be using: name of the extra -> paths.
_ACCELERATORS = {
  'cuda': ('/dev/nvidia0',),
  'tpu': ('/dev/accel0', '/dev/vfio/0'),
}
_BYTES_PER_PARAMETER = 12  # weight and both moments, float32


def say(program: Program, run: Run, about_data: str, start: int) -> None:
  """Prints the opening lines of a run to stderr, on the first host."""
  for name, text in lines(program, run, about_data, start):
    hosts.say(f'{name:>12}  {text}')


def lines(
  program: Program, run: Run, about_data: str, start: int
) -> Iterator[tuple[str, str]]:
  """Yields the name and the text of each opening line."""
  devices, pace = program.mesh.devices, run.pace
  axes = ' x '.join(f'{name} {n}' for name, n in program.mesh.shape.items())
  yield (
    'devices',
    (
      f'{devices.size} {devices.flat[0].device_kind} on {jax.process_count()} '
      f'{"host" if jax.process_count() == 1 else "hosts"}, mesh {axes}'
    ),
  )
  idle = idle_accelerator(jax.default_backend(), os.environ)
  if idle:
    yield (
      'warning',
      (
        f'this machine has an accelerator, and JAX uses the CPU: install '
        f'gpt1_jax[{idle}], or set JAX_PLATFORMS=cpu to keep using it'
      ),
    )
  config = program.objective.model.config
  parameters = models.num_parameters(config)
  yield 'model', f'{config.kind}, {parameters:,} parameters, {config.dtype}'
  yield 'data', about_data
  yield 'loss', program.objective.loss
  begin = f'from checkpoint {start}' if start else 'from the beginning'
  yield 'updates', f'{program.num_steps:,}, {begin}'
  size = parameters * _BYTES_PER_PARAMETER
  keep = pace.settings.keep
  kept = f'the last {keep} are kept' if keep > 1 else 'the last is kept'
  saved = [f'{size / 1e6:,.0f} MB each, {kept}']
  if pace.settings.checkpoint_minutes:
    saved.insert(0, f'every {pace.settings.checkpoint_minutes:g} minutes')
  if pace.checkpoint_every:
    saved.insert(0, f'every {pace.checkpoint_every:,} updates')
  if not storage.is_remote(run.workdir):
    free = shutil.disk_usage(_existing(pathlib.Path(run.workdir))).free
    saved.append(f'{free / 1e9:,.1f} GB of disk are free')
  yield 'checkpoints', ', '.join(saved)
  yield 'files', run.workdir
  if start < program.num_steps:
    yield 'compiling', 'the first update; Ctrl-C waits for the compiler'


def idle_accelerator(
  platform: str, environment: 'os._Environ[str] | dict[str, str]'
) -> str | None:
  """Returns the extra to install if the machine has an unused GPU or TPU."""
  if platform != 'cpu' or environment.get('JAX_PLATFORMS'):
    return None
  for extra, paths in _ACCELERATORS.items():
    if any(os.path.exists(path) for path in paths):
      return extra
  return None


def _existing(path: pathlib.Path) -> pathlib.Path:
  while not path.exists():
    path = path.parent
  return path
