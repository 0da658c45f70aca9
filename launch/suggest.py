"""Which microbatches, recomputation and mesh: the fastest step that fits.

Each remat is compiled with as few microbatches as its memory may allow: a step
that did not fit says by how much, and what is bound to fail is not tried. Other
meshes than the data one are tried only where the state takes a good part of
HBM, or nothing fits.
"""

import multiprocessing
from collections.abc import Callable, Iterator
from concurrent import futures
from concurrent.futures import process
from typing import Any

import jax
from rich import console as rich_console

from gpt1_jax.compiler import compiled
from gpt1_jax.errors import UserError
from gpt1_jax.train import chips

# State beyond this part of HBM makes it worth while to spread it.
_LARGE_STATE = 0.2


def fastest(
  config: dict[str, Any],
  compile_config: Callable[[dict[str, Any]], compiled.Figures | None],
  devices: int,
  slices: int,
  console: rich_console.Console,
) -> tuple[dict[str, Any], compiled.Figures]:
  """Compiles candidates; the best one's configuration and figures.

  Args:
    config: what to start from; all else in it stays.
    compile_config: configuration → figures, None if the compiler crashed.
    devices: of all slices.
    slices: over which data must divide.
    console: where progress is said.

  Raises:
    UserError: nothing fits.
  """
  best, state_bytes, capacity = None, 0, None
  for mesh in meshes(config, devices, slices):
    if mesh['fsdp'] * mesh['tensor'] > 1 and best:
      if state_bytes < _LARGE_STATE * (capacity or 0):
        break
      if mesh['tensor'] > 1:
        break
    for remat in ('none', 'dots', 'full'):
      for changed, figures in fitting(
        config, mesh, remat, compile_config, console
      ):
        state_bytes = figures.hbm_argument_bytes or state_bytes
        capacity = figures.hbm_capacity_bytes
        if figures.fits and (best is None or _time(figures) < _time(best[1])):
          best = (changed, figures)
  if best is None:
    raise UserError(
      'nothing fits, whatever the microbatches, remat and mesh: more chips, or '
      'a smaller model'
    )
  return best


def compile_apart(
  config: dict[str, Any], name: str, slices: int, *sizes: int
) -> compiled.Figures | None:
  """`compiled.compile_config` in a process of its own.

  A crash of the compiler (libtpu 0.0.40 crashes on some small shapes with
  remat) is None, and libtpu's lock is free again afterwards.

  Args:
    config: of pretraining.
    name, slices: of the topology.
    *sizes: vocab_size and num_steps.
  """
  with _process() as pool:
    try:
      return pool.submit(_figures, config, name, slices, *sizes).result()
    except process.BrokenProcessPool:
      return None


def count_devices(name: str, slices: int) -> int:
  """Of a topology, counted in a process of its own."""
  with _process() as pool:
    return pool.submit(_count, name, slices).result()


def _process() -> futures.ProcessPoolExecutor:
  return futures.ProcessPoolExecutor(
    1, mp_context=multiprocessing.get_context('spawn')
  )


def _count(name, slices):
  _no_accelerator(name)
  return len(chips.topology(name, slices).devices)


def _figures(config, name, slices, *sizes):
  _no_accelerator(name)
  topology = chips.topology(name, slices)
  return compiled.compile_config(config, topology, *sizes)[0]


def _no_accelerator(name: str) -> None:
  if name != 'local':
    jax.config.update('jax_platforms', 'cpu')


def meshes(
  config: dict[str, Any], devices: int, slices: int
) -> Iterator[dict[str, int]]:
  """The data mesh, then fsdp by fours, then tensor by twos."""
  model = config['model']
  whole = {'data': devices, 'fsdp': 1, 'tensor': 1}
  yield whole
  for axis, sizes, divided in (
    ('fsdp', (4, 16, 64), model['n_embd']),
    ('tensor', (2, 4), model.get('n_head', 1)),
  ):
    for size in sizes:
      data = devices // size
      if devices % size == 0 and divided % size == 0 and data % slices == 0:
        yield {**whole, 'data': data, axis: size}


def fitting(
  config: dict[str, Any],
  mesh: dict[str, int],
  remat: str,
  compile_config: Callable[[dict[str, Any]], compiled.Figures | None],
  console: rich_console.Console,
) -> Iterator[tuple[dict[str, Any], compiled.Figures]]:
  """Tries microbatches 1, 2, 4 ... until the step fits or cannot be cut."""
  rows = config['data']['batch_size']
  shards = mesh['data'] * mesh['fsdp']
  microbatches, least = 1, 1
  while rows % (shards * microbatches) == 0:
    if microbatches >= least:
      changed = {
        **config,
        'mesh': mesh,
        'model': {**config['model'], 'remat': remat},
        'train': {**config['train'], 'microbatches': microbatches},
      }
      console.print(f'compiling {flags(changed)} ...', markup=False)
      figures = compile_config(changed)
      if figures is None:
        console.print('  the compiler crashed: left out', markup=False)
        return
      console.print(_outcome(figures), markup=False)
      yield changed, figures
      if figures.fits:
        return
      least = microbatches * least_cut(figures)
    microbatches *= 2


def least_cut(figures: compiled.Figures) -> int:
  """How many times more microbatches are needed at least.

  Temporaries shrink no faster than the microbatch, and what is left beside the
  arguments is what they may take.
  """
  temp, arguments = figures.hbm_temp_bytes, figures.hbm_argument_bytes
  room = (figures.hbm_capacity_bytes or 0) - (arguments or 0)
  if not temp or room <= 0:
    return 2
  return max(2, -(-temp // room))


def flags(config: dict[str, Any]) -> str:
  """What was searched, as flags of `pretrain`."""
  mesh = ' '.join(f'--config.mesh.{n}={s}' for n, s in config['mesh'].items())
  return (
    f'--config.train.microbatches={config["train"]["microbatches"]} '
    f'--config.model.remat={config["model"]["remat"]} {mesh}'
  )


def _outcome(figures: compiled.Figures) -> str:
  if not figures.fits:
    return f'  does not fit ({figures.compile_seconds:.0f} s)'
  bound = figures.estimated_step_seconds
  what = f'{1e3 * bound:.1f} ms a step at best, ' if bound else ''
  return f'  fits: {what}compiled in {figures.compile_seconds:.0f} s'


def _time(figures: compiled.Figures) -> float:
  return figures.estimated_step_seconds or figures.flops
