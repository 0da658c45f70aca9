"""Small pretraining steps to compile, and their FLOPs counted by hand."""

import dataclasses
from typing import Any

import jax

from configs import pretrain as config_file
from gpt1_jax import config as config_lib
from gpt1_jax.compiler import hlo_cost, out_of_memory, roofline, stats
from gpt1_jax.compiler.hlo_text import HloText
from gpt1_jax.model import causal
from gpt1_jax.train import chips

VOCAB = 500
# What `aot_compile --json` prints.
JSON_KEYS = {
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
}
# In bfloat16, with widths that fill a TPU's matrix unit. Attention is plain and
# nothing is recomputed, so that every product can be counted.
TPU_SHAPE = {
  'model.n_layer': 3,
  'model.n_embd': 256,
  'model.n_head': 4,
  'model.n_ctx': 128,
  'model.dtype': 'bfloat16',
  'model.attention': 'plain',
}


def preset(name: str, **changes: Any) -> config_lib.PretrainConfig:
  """Returns a preset with dotted changes."""
  config = config_file.get_config(name)
  config.update_from_flattened_dict({'data.path': '', **changes})
  return config_lib.parse(config_lib.PretrainConfig, config.to_dict())


def small(**changes: Any) -> config_lib.PretrainConfig:
  """Returns a configuration of four looped layers, with dotted changes."""
  base = {'model.n_layer': 4, 'model.unroll': 1, 'model.remat': 'none'}
  return preset('tiny', **{**base, **changes})


def compile_for_tpu(topology: str, slices: int = 1, **changes: Any) -> tuple:
  """Compiles a step of TPU_SHAPE; returns what `stats.compile_step` does."""
  return stats.compile_step(
    small(**{**TPU_SHAPE, **changes}),
    chips.topology(topology, slices),
    VOCAB,
    10,
  )


def product_flops(compiled: jax.stages.Compiled) -> float:
  """Counts the FLOPs of the matrix products of a step."""
  hlo = HloText(compiled.as_text())
  return sum(
    count * hlo_cost.product_flops(hlo.computations[name], i)
    for name, i, count in hlo.walk()
    if i.opcode in ('dot', 'convolution')
  )


def second_scores_flops(
  config: config_lib.PretrainConfig, devices: int
) -> float:
  """Returns a device's FLOPs of the attention scores computed again.

  The backward pass computes them a second time. The context is one block, so
  that no part of them is left out.
  """
  model = config.model
  assert model.n_ctx <= causal.BLOCK
  tokens = config.data.batch_size * model.n_ctx
  return 2 * model.n_layer * model.n_ctx * model.n_embd * tokens / devices


def reduced_bytes(found: stats.CompileStats, kind: str = 'all-reduce') -> int:
  """Adds up the bytes of the collectives of one kind."""
  return sum(c.total_bytes for c in found.cost.collectives if c.kind == kind)


def made_up(
  *,
  fits: bool = True,
  memory: out_of_memory.HbmUse,
  bound: tuple[float, float] = (0.01, 0.04),
  model_flops: float = 1e12,
  **cost: Any,
) -> stats.CompileStats:
  """Returns statistics without a compiler.

  Args:
    fits: False for a step that does not fit.
    memory: of the step.
    bound: seconds of compute and HBM.
    model_flops: a device's share.
    **cost: fields of `stats.StepCost` that matter.
  """
  found = None
  if fits:
    found = stats.StepCost(
      flops=1e12,
      bytes_accessed=2e9,
      hbm_bytes=1e9,
      collectives=(),
      bound=roofline.Roofline(*bound, ici=0.0, dcn=0.0),
    )
    found = dataclasses.replace(found, **cost)
  return stats.CompileStats(memory, found, model_flops, compile_seconds=1.0)
