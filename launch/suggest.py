"""Searches microbatches, remat and mesh for the fastest step that fits.

For each remat setting, finds the fewest microbatches that fit. A step that does
not fit reports its size, so that other hopeless candidates are skipped. fsdp
axes are tried with the best remat setting so far, or with all of them if the
training state takes a large part of HBM; tensor axes only if nothing fits.
"""

import dataclasses
import multiprocessing
from collections.abc import Callable, Iterator
from concurrent import futures
from concurrent.futures import process
from typing import Any, TypeVar

import jax
from rich import console as rich_console

from gpt1_jax.compiler import stats
from gpt1_jax.config import PretrainConfig
from gpt1_jax.errors import Stopped, UserError
from gpt1_jax.settings import GPTSettings, MeshSettings
from gpt1_jax.train import chips

# fsdp is worth trying if the state takes more than this fraction of HBM.
_LARGE_STATE = 0.2
_REMATS: tuple[str, ...] = ('none', 'dots', 'dots_except_qkv', 'full')
Candidate = tuple[PretrainConfig, stats.CompileStats]
Compile = Callable[[PretrainConfig], stats.CompileStats | None]
T = TypeVar('T')


def fastest(
  config: PretrainConfig,
  compile_fn: Compile,
  num_devices: int,
  slices: int,
  console: rich_console.Console,
) -> Candidate:
  """Compiles candidates; returns the fastest with its statistics.

  Args:
    config: base configuration; only the searched settings change.
    compile_fn: compiles a configuration; returns None if the compiler crashed.
    num_devices, slices: devices in all slices; the data axis is a multiple of
      the slices.
    console: receives progress.

  Raises:
    UserError: nothing fits.
  """
  best: Candidate | None = None
  state, capacity = 0, 0
  for mesh in meshes(config, num_devices, slices):
    if best and mesh.tensor > 1:
      break
    remats = _REMATS if isinstance(config.model, GPTSettings) else ('',)
    if best and mesh.fsdp > 1 and state < _LARGE_STATE * capacity:
      remats = (getattr(best[0].model, 'remat', ''),)
    for remat in remats:
      for candidate in fitting(_with(config, mesh, remat), compile_fn, console):
        found = candidate[1]
        state = found.memory.arguments or state
        capacity = found.memory.capacity or capacity
        if found.cost and (not best or _time(found) < _time(best[1])):
          best = candidate
  if best is None:
    raise UserError(
      'nothing fits with any microbatches, remat and mesh: use more chips or a '
      'smaller model'
    )
  return best


def meshes(
  config: PretrainConfig, num_devices: int, slices: int
) -> Iterator[MeshSettings]:
  """Yields the data-parallel mesh, then larger fsdp, then tensor axes."""
  yield _mesh(config, num_devices, 1, 1)
  heads = getattr(config.model, 'n_head', 1)
  for fsdp, tensor in [(4, 1), (16, 1), (64, 1), (1, 2), (1, 4)]:
    data, rest = divmod(num_devices, fsdp * tensor)
    if not (
      rest or config.model.n_embd % fsdp or heads % tensor or data % slices
    ):
      yield _mesh(config, data, fsdp, tensor)


def _mesh(
  config: PretrainConfig, data: int, fsdp: int, tensor: int
) -> MeshSettings:
  return dataclasses.replace(config.mesh, data=data, fsdp=fsdp, tensor=tensor)


def fitting(
  config: PretrainConfig, compile_fn: Compile, console: rich_console.Console
) -> Iterator[Candidate]:
  """Tries 1, 2, 4, ... microbatches until one fits; yields every attempt."""
  shards = config.mesh.data * config.mesh.fsdp
  microbatches, least = 1, 1
  while config.data.batch_size % (shards * microbatches) == 0:
    if microbatches >= least:
      train = dataclasses.replace(config.train, microbatches=microbatches)
      changed = dataclasses.replace(config, train=train)
      console.print(f'compiling {flags(changed)} ...', markup=False)
      found = compile_fn(changed)
      if found is None:
        console.print('  the compiler crashed: skipped', markup=False)
        return
      console.print(_outcome(found), markup=False)
      yield changed, found
      if found.fits:
        return
      least = microbatches * _least_factor(found)
    microbatches *= 2


def _least_factor(found: stats.CompileStats) -> int:
  """Returns a lower bound on the factor by which microbatches must grow.

  Temporaries shrink at most in proportion to the microbatch, and must fit in
  the HBM that the arguments leave free.
  """
  temp, arguments = found.memory.temp, found.memory.arguments
  room = (found.memory.capacity or 0) - (arguments or 0)
  return max(2, -(-temp // room)) if temp and room > 0 else 2


def _with(
  config: PretrainConfig, mesh: MeshSettings, remat: str
) -> PretrainConfig:
  remats: dict[str, Any] = {'remat': remat} if remat else {}
  model = dataclasses.replace(config.model, **remats)
  return dataclasses.replace(config, mesh=mesh, model=model)


def flags(config: PretrainConfig) -> str:
  """Returns the searched settings as flags for `pretrain`."""
  out = [f'--config.train.microbatches={config.train.microbatches}']
  if isinstance(config.model, GPTSettings):
    out.append(f'--config.model.remat={config.model.remat}')
  sizes = config.mesh.axes.items()
  return ' '.join(out + [f'--config.mesh.{n}={size}' for n, size in sizes])


def _outcome(found: stats.CompileStats) -> str:
  if not found.fits:
    return f'  does not fit ({found.compile_seconds:.0f} s)'
  seconds = found.step_seconds
  step = f'about {1e3 * seconds:.1f} ms per step, ' if seconds else ''
  return f'  fits: {step}compiled in {found.compile_seconds:.0f} s'


def _time(found: stats.CompileStats) -> float:
  return found.step_seconds or (found.cost.flops if found.cost else 0.0)


def compile_in_process(
  config: PretrainConfig, name: str, slices: int, *sizes: int
) -> stats.CompileStats | None:
  """Compiles in a separate process; returns None if the compiler crashed.

  The process releases libtpu's lock when it exits. libtpu 0.0.40 crashes on
  some small shapes with remat.

  Args:
    config: the configuration.
    name, slices: name and number of slices, see `chips.topology`.
    *sizes: vocab_size and num_steps.
  """
  try:
    return in_process(_compile, config, name, slices, *sizes)
  except process.BrokenProcessPool:
    return None


def count_devices(name: str, slices: int) -> int:
  """Counts the devices of a topology, in a separate process."""
  return in_process(_count, name, slices)


def in_process(function: Callable[..., T], *arguments: Any) -> T:
  """Calls a function in a process of its own; a signal ends both at once."""
  spawn = multiprocessing.get_context('spawn')
  with futures.ProcessPoolExecutor(1, mp_context=spawn) as pool:
    try:
      return pool.submit(function, *arguments).result()
    except Stopped:
      for child in multiprocessing.active_children():
        child.kill()  # the pool would wait for its compilation
      raise


def _compile(
  config: PretrainConfig, name: str, slices: int, *sizes: int
) -> stats.CompileStats:
  return stats.compile_step(config, _topology(name, slices), *sizes)[0]


def _count(name: str, slices: int) -> int:
  return len(_topology(name, slices).devices)


def _topology(name: str, slices: int) -> chips.Topology:
  if name != 'local':
    jax.config.update('jax_platforms', 'cpu')
  return chips.topology(name, slices)
