"""The train step, compiled for devices that need not be there, and its figures.

Memory is the compiler's own account. FLOPs, bytes and collectives are read off
the compiled text with loops counted in full (`hlo`). The step's time is a
roofline: the longest of computing, moving HBM and the collectives, each at its
published peak and all of them overlapping, so a bound and no measurement.
"""

import dataclasses
import time
from collections.abc import Sequence
from typing import Any

import jax

from gpt1_jax import config as config_lib
from gpt1_jax.compiler import hlo, hlo_cost, out_of_memory
from gpt1_jax.model import models
from gpt1_jax.train import chips, pretraining, program as program_lib, sharding

ASSUMPTIONS = (
  'each chip computes at its bf16 peak, moves HBM at its peak bandwidth and '
  'does all of it, collectives included, at the same time; what lies in VMEM '
  'costs no HBM traffic; a collective uses every link of the slice, as a ring '
  'does (2 (n-1)/n of the bytes for an all-reduce, (n-1)/n for a gather or a '
  'scatter); between slices the rate of the data-centre network; model FLOPs '
  'count attention in full, and the kernel skips what lies ahead, so that a '
  'utilisation may pass 100%'
)


@dataclasses.dataclass(frozen=True)
class Figures:
  """What the compiler and its text say of one step, on one device.

  Attributes:
    fits: it was compiled. Otherwise what needs the program is None.
    hbm_peak_bytes: what the step needs: arguments, outputs that take no
      argument's place, temporaries and code.
    hbm_capacity_bytes: what a program may use; None if not known.
    flops: of all operations, loops counted in full.
    model_flops: of the model by its formula, the device's share.
    bytes_accessed: as XLA counts them (every memory), loops counted in full.
    hbm_bytes: those of them that are in HBM, tiles' padding included.
    collectives: each with kind, bytes of one execution, count, devices that
      take part and network, 'ici' or 'dcn'.
    seconds: of each part of the roofline; empty without known peaks.
    unknown_loops: loops counted once, because the text does not tell more.
    buffers: the largest, if it does not fit.
  """

  fits: bool
  hbm_peak_bytes: int | None
  hbm_temp_bytes: int | None
  hbm_argument_bytes: int | None
  hbm_capacity_bytes: int | None
  flops: float | None
  model_flops: float
  bytes_accessed: float | None
  hbm_bytes: float | None
  collectives: list[dict[str, Any]]
  compile_seconds: float
  seconds: dict[str, float]
  unknown_loops: int = 0
  buffers: tuple[out_of_memory.Buffer, ...] = ()

  @property
  def estimated_step_seconds(self) -> float | None:
    return max(self.seconds.values()) if self.seconds else None

  @property
  def estimated_utilisation(self) -> float | None:
    """Model FLOPs over what the peak would do in that time."""
    if not self.seconds:
      return None
    needed = self.model_flops / self.flops * self.seconds['compute']
    return needed / self.estimated_step_seconds

  def to_json(self) -> dict[str, Any]:
    names = (
      'fits',
      'hbm_peak_bytes',
      'hbm_temp_bytes',
      'hbm_argument_bytes',
      'hbm_capacity_bytes',
      'flops',
      'model_flops',
      'bytes_accessed',
      'collectives',
      'compile_seconds',
      'estimated_step_seconds',
      'estimated_utilisation',
    )
    return {name: getattr(self, name) for name in names}


def compile_config(
  config: dict[str, Any],
  topology: chips.Topology,
  vocab_size: int,
  num_steps: int,
) -> tuple[Figures, tuple[program_lib.Program, Any]]:
  """Figures of a configuration on a topology, and what was compiled.

  Args:
    config: of pretraining, plain values; data.path is not read.
    topology: the devices.
    vocab_size: entries of the tokenizer.
    num_steps: updates in all: a constant of the schedule.

  Raises:
    UserError: the configuration or the mesh cannot be.
  """
  settings = config_lib.parse(config_lib.PretrainConfig, config)
  model = pretraining.model_config(settings, vocab_size)
  mesh = sharding.make_mesh(
    topology.devices, **dataclasses.asdict(settings.mesh)
  )
  program = pretraining.build(settings, model, mesh, num_steps)
  tokens = settings.data.batch_size * model.n_ctx
  figures, compiled = compile_step(
    program, topology, models.flops_per_token(model) * tokens
  )
  return figures, (program, compiled)


def compile_step(
  program: program_lib.Program, topology: chips.Topology, model_flops: float
) -> tuple[Figures, Any]:
  """Compiles the step for a topology.

  Args:
    program: built for a mesh of the topology's devices.
    topology: names the chip and its links.
    model_flops: of one step, on all devices.

  Returns:
    The figures, and the executable (`jax.stages.Compiled`), None if the step
    does not fit.
  """
  share = model_flops / len(topology.devices)
  lowered = program.lower()
  started = time.perf_counter()
  try:
    compiled = lowered.compile()
  except jax.errors.JaxRuntimeError as error:
    if 'RESOURCE_EXHAUSTED' not in str(error):
      raise
    seconds = time.perf_counter() - started
    chip = chips.of(topology.kind)
    told = out_of_memory.parse(str(error))
    if told['hbm_capacity_bytes'] is None and chip:
      told['hbm_capacity_bytes'] = int(chip.hbm_bytes)
    return not_fitting(told, share, seconds), None
  seconds = time.perf_counter() - started
  return _figures(compiled, topology, share, seconds), compiled


def not_fitting(told: dict[str, Any], share: float, seconds: float) -> Figures:
  """Figures of a step that was refused; `told` is `out_of_memory.parse`'s."""
  return Figures(
    fits=False,
    flops=None,
    model_flops=share,
    bytes_accessed=None,
    hbm_bytes=None,
    collectives=[],
    compile_seconds=seconds,
    seconds={},
    **told,
  )


def _figures(
  compiled: Any, topology: chips.Topology, share: float, seconds: float
) -> Figures:
  memory = compiled.memory_analysis()
  chip = chips.of(topology.kind)
  text = hlo.Program(compiled.as_text())
  cost = hlo_cost.of(text)
  # The compiler knows best what an operation moves; the text, how often.
  once = compiled.cost_analysis().get('bytes accessed', 0.0)
  ours = hlo_cost.of(text, once=True).bytes
  collectives = _alike(text.collectives())
  arguments = memory.argument_size_in_bytes
  outputs = memory.output_size_in_bytes - memory.alias_size_in_bytes
  temp = memory.temp_size_in_bytes
  code = memory.generated_code_size_in_bytes
  capacity = int(chip.hbm_bytes) if chip and chip.hbm_bytes else None
  return Figures(
    fits=True,
    hbm_peak_bytes=arguments + outputs + temp + code,
    hbm_temp_bytes=temp,
    hbm_argument_bytes=arguments,
    hbm_capacity_bytes=capacity,
    flops=cost.flops,
    model_flops=share,
    bytes_accessed=cost.bytes * (once / ours if once and ours else 1.0),
    hbm_bytes=cost.hbm_bytes,
    collectives=collectives,
    compile_seconds=seconds,
    seconds=roofline(cost, collectives, chip, topology.links),
    unknown_loops=text.unknown_loops(),
  )


def _alike(collectives: Sequence[hlo.Collective]) -> list[dict[str, Any]]:
  """As rows; those of one kind and size are one, their counts added."""
  out: dict[tuple, dict[str, Any]] = {}
  for c in collectives:
    row = {
      'kind': c.kind,
      'bytes': c.bytes,
      'count': 0,
      'devices': c.devices,
      'network': c.network,
    }
    key = (c.kind, c.bytes, c.devices, c.network)
    out.setdefault(key, row)['count'] += c.count
  return list(out.values())


def roofline(
  cost: hlo_cost.Cost,
  collectives: Sequence[dict[str, Any]],
  chip: chips.Chip | None,
  links: int,
) -> dict[str, float]:
  """Seconds of each part of a step; see ASSUMPTIONS.

  Args:
    cost: of a step on one device.
    collectives: as `Figures` has them.
    chip: the device; None gives nothing.
    links: of a chip, that lead to others of the slice.
  """
  if chip is None:
    return {}
  out = {
    'compute': cost.flops / chip.flops,
    'hbm': cost.hbm_bytes / chip.hbm_bandwidth,
    'ici': 0.0,
    'dcn': 0.0,
  }
  rates = {'ici': links * chip.link_bandwidth, 'dcn': chip.dcn_bandwidth}
  for c in collectives:
    n, rate = c['devices'], rates[c['network']]
    if n > 1 and rate:
      passes = 2 if c['kind'] == 'all-reduce' else 1
      share = 1.0 if c['kind'] == 'collective-permute' else (n - 1) / n
      out[c['network']] += passes * share * c['bytes'] * c['count'] / rate
  return out
