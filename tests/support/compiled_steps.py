"""Small pretraining steps to compile, and their FLOPs counted by hand."""

import contextlib
import dataclasses
from collections.abc import Iterator
from typing import Any

import jax
from jax.experimental.compilation_cache import compilation_cache

from configs import pretrain as config_file
from gpt1_jax import config as config_lib
from gpt1_jax.compiler import hlo_cost, out_of_memory, roofline, stats
from gpt1_jax.compiler.hlo_text import HloText
from gpt1_jax.model import causal

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
  'causal_model_flops',
  'bytes_accessed',
  'collectives',
  'compile_seconds',
  'estimated_step_seconds',
  'estimated_utilisation',
  'estimated_parts',
}


@contextlib.contextmanager
def uncached() -> Iterator[None]:
  """Compiles without the tests' cache: a step from it may not load again."""
  compilation_cache.reset_cache()  # jax decides once whether it uses one
  before = jax.config.jax_enable_compilation_cache
  jax.config.update('jax_enable_compilation_cache', False)
  try:
    yield
  finally:
    jax.config.update('jax_enable_compilation_cache', before)
    compilation_cache.reset_cache()


def preset(name: str, **changes: Any) -> config_lib.PretrainConfig:
  """Returns a preset with dotted changes."""
  config = config_file.get_config(name)
  config.update_from_flattened_dict({'data.path': 'none', **changes})
  return config_lib.parse(config_lib.PretrainConfig, config.to_dict())


def small(**changes: Any) -> config_lib.PretrainConfig:
  """Returns a configuration of four looped layers, with dotted changes."""
  base = {'model.n_layer': 4, 'model.unroll': 1, 'model.remat': 'none'}
  return preset('tiny', **{**base, **changes})


def product_flops(compiled: jax.stages.Compiled) -> float:
  """Counts the FLOPs of the matrix products of a step."""
  hlo = HloText(compiled.as_text())
  return sum(
    count * product.flops
    for name, i, count in hlo.walk()
    if (product := hlo_cost.read_product(hlo.computations[name], i))
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
  seconds: float = 0.04,
  model_flops: float = 1e12,
  **cost: Any,
) -> stats.CompileStats:
  """Returns statistics without a compiler.

  Args:
    fits: False for a step that does not fit.
    memory: memory of the step.
    seconds: estimated time of a step, all of it in kernels.
    model_flops: one device's share.
    **cost: fields of `stats.StepCost` to replace.
  """
  found = None
  if fits:
    found = stats.StepCost(
      flops=1e12,
      bytes_accessed=2e9,
      hbm_bytes=1e9,
      collectives=(),
      estimate=roofline.Estimate({'kernels': roofline.Part(seconds)}, 2e14),
    )
    found = dataclasses.replace(found, **cost)
  masked = model_flops / 10
  return stats.CompileStats(memory, found, model_flops, masked, 1.0)
