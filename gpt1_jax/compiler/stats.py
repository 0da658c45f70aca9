"""Compiles the train step for a topology; reports memory, cost and time.

The devices need not be attached. Memory, FLOPs and bytes come from XLA's
`memory_analysis` and `cost_analysis`. XLA counts loop bodies once and reports
neither HBM traffic nor collectives; these come from the compiled text.
"""

import dataclasses
import time
from typing import Any

import jax

from gpt1_jax import interrupts
from gpt1_jax.compiler import (
  collectives as collectives_lib,
  hlo_cost,
  out_of_memory,
  roofline,
)
from gpt1_jax.compiler.hlo_text import HloText
from gpt1_jax.config import PretrainConfig
from gpt1_jax.model import models
from gpt1_jax.train import chips, pretraining, program as program_lib, sharding


@dataclasses.dataclass(frozen=True)
class StepCost:
  """The cost of one step on one device, with every loop counted in full.

  Attributes:
    flops: FLOPs.
    bytes_accessed: bytes read and written in all memories, as XLA counts.
    hbm_bytes: bytes read and written in HBM, tile padding included.
    collectives: operations between devices.
    estimate: time of the step; None if the device's peaks are unknown.
    unknown_loops: loops that are counted once because their trip count is
      unknown.
  """

  flops: float
  bytes_accessed: float
  hbm_bytes: float
  collectives: tuple[collectives_lib.Collective, ...]
  estimate: roofline.Estimate | None
  unknown_loops: int = 0

  @property
  def collective_bytes(self) -> int:
    return sum(c.total_bytes for c in self.collectives)


@dataclasses.dataclass(frozen=True)
class CompileStats:
  """Results of compiling one step, all per device.

  Attributes:
    memory: HBM that the step needs.
    cost: None if the step does not fit.
    model_flops: the device's share of the model FLOPs, attention in full.
    masked_flops: the part spent on scores that causal attention masks (half).
    compile_seconds: wall time of the compilation.
    buffers: the largest allocations, if the step does not fit.
  """

  memory: out_of_memory.HbmUse
  cost: StepCost | None
  model_flops: float
  masked_flops: float
  compile_seconds: float
  buffers: tuple[out_of_memory.Buffer, ...] = ()

  @property
  def fits(self) -> bool:
    return self.cost is not None

  @property
  def estimate(self) -> roofline.Estimate | None:
    return self.cost.estimate if self.cost else None

  @property
  def step_seconds(self) -> float | None:
    """Estimated time of a step, or None."""
    return self.estimate.step_seconds if self.estimate else None

  @property
  def causal_flops(self) -> float:
    """Model FLOPs, with half of the attention scores."""
    return self.model_flops - self.masked_flops

  def utilisation(self, flops: float) -> float | None:
    """Returns `flops` as a fraction of the device's peak in `step_seconds`."""
    found = self.estimate
    return flops / (found.peak * found.step_seconds) if found else None

  def to_json(self) -> dict[str, object]:
    """Returns the object that `launch/aot_compile.py --json` prints."""
    cost = self.cost
    return {
      'fits': self.fits,
      'hbm_peak_bytes': self.memory.peak,
      'hbm_temp_bytes': self.memory.temp,
      'hbm_argument_bytes': self.memory.arguments,
      'hbm_capacity_bytes': self.memory.capacity,
      'flops': cost and cost.flops,
      'model_flops': self.model_flops,
      'causal_model_flops': self.causal_flops,
      'bytes_accessed': cost and cost.bytes_accessed,
      'collectives': [
        dataclasses.asdict(c) for c in (cost.collectives if cost else ())
      ],
      'compile_seconds': self.compile_seconds,
      'estimated_step_seconds': self.step_seconds,
      'estimated_utilisation': self.utilisation(self.model_flops),
      'estimated_parts': {
        kind: dataclasses.asdict(part)
        for kind, part in (self.estimate.parts if self.estimate else {}).items()
      },
    }


def compile_step(
  config: PretrainConfig,
  topology: chips.Topology,
  vocab_size: int,
  num_steps: int,
) -> tuple[CompileStats, program_lib.Program, jax.stages.Compiled | None]:
  """Compiles the train step of a configuration.

  Args:
    config: the configuration; data.path is not read.
    topology: devices to compile for.
    vocab_size: size of the tokenizer's vocabulary.
    num_steps: total updates, a constant in the learning-rate schedule.

  Returns:
    The statistics, the program, and its compiled step (None if it does not
    fit).

  Raises:
    UserError: the mesh does not divide the batch or the model.
  """
  model = pretraining.model_config(config, vocab_size)
  mesh = sharding.make_mesh(topology.devices, **config.mesh.axes)
  program = pretraining.build(config, model, mesh, num_steps)
  tokens = config.data.batch_size * model.n_ctx / len(topology.devices)
  share = models.flops_per_token(model) * tokens
  masked = models.masked_flops_per_token(model) * tokens
  chip = chips.lookup(topology.kind)
  capacity = int(chip.hbm_bytes) or None if chip else None
  lowered = program.lower()
  started = time.perf_counter()
  try:
    # Takes minutes in C++, where a signal could only be noted.
    with interrupts.within(interrupts.Phase.EXIT):
      compiled = lowered.compile()
  except jax.errors.JaxRuntimeError as error:
    if 'RESOURCE_EXHAUSTED' not in str(error):
      raise
    seconds = time.perf_counter() - started
    memory, buffers = out_of_memory.parse(str(error), capacity)
    found = CompileStats(memory, None, share, masked, seconds, buffers)
    return found, program, None
  seconds = time.perf_counter() - started
  memory = _memory(compiled, capacity)
  cost = _cost(compiled, topology, model.n_embd // getattr(model, 'n_head', 1))
  found = CompileStats(memory, cost, share, masked, seconds)
  return found, program, compiled


def _memory(
  compiled: jax.stages.Compiled, capacity: int | None
) -> out_of_memory.HbmUse:
  found: Any = compiled.memory_analysis()
  arguments, temp = found.argument_size_in_bytes, found.temp_size_in_bytes
  outputs = found.output_size_in_bytes - found.alias_size_in_bytes
  code = found.generated_code_size_in_bytes
  # `peak_memory_in_bytes` counts VMEM too.
  peak = arguments + outputs + temp + code
  return out_of_memory.HbmUse(peak, temp, arguments, capacity)


def _cost(
  compiled: jax.stages.Compiled, topology: chips.Topology, head_width: int
) -> StepCost:
  xla: Any = compiled.cost_analysis()
  hlo = HloText(compiled.as_text() or '')
  once, full = hlo_cost.count(hlo, loops_once=True), hlo_cost.count(hlo)
  # XLA counts each operation once; the text says how often it runs.
  flops = xla['flops'] * _ratio(full.flops, once.flops)
  accessed = xla.get('bytes accessed', 0.0) * _ratio(full.bytes, once.bytes)
  return StepCost(
    flops,
    accessed,
    full.hbm_bytes,
    tuple(collectives_lib.find(hlo)),
    roofline.estimate(hlo, topology, head_width),
    hlo.count_unknown_loops(),
  )


def _ratio(full: float, once: float) -> float:
  return full / once if once else 1.0
