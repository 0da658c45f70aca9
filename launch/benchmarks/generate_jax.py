"""Our generation: one prompt a row, then token by token with the cache."""

import time
from typing import Any

import jax
import jax.numpy as jnp

from benchmarks import process, shapes
from gpt1_jax.model import decoding, models
from gpt1_jax.train import pretraining


def prepare(
  settings: dict[str, Any],
) -> tuple[process.Measure, dict[str, Any]]:
  parts = pretraining.settings(shapes.config(settings))
  config = pretraining.model_config(parts, settings['vocab_size'])
  tokens = jnp.zeros((1, config.n_ctx), jnp.int32)
  params = jax.jit(models.new(config).init)(
    jax.random.key(0), tokens, dropout_key=None
  )
  params = jax.tree.map(
    lambda x: x.value if hasattr(x, 'value') else x,
    params['params'],
    is_leaf=lambda x: hasattr(x, 'value'),
  )
  prompts = shapes.tokens(settings, settings['prompt']).tolist()
  greedy = decoding.Sampling(True, 1.0, 0, 1.0)
  count = settings['tokens']

  def measure() -> dict[str, float]:
    started = time.perf_counter()
    made = decoding.generate(
      params,
      config,
      prompts,
      num_tokens=count,
      num_samples=1,
      seed=0,
      sampling=greedy,
    )
    seconds = time.perf_counter() - started
    return {'tokens_per_second': made.size / seconds, 'seconds': seconds}

  measure()
  return measure, {'jax': jax.__version__}


if __name__ == '__main__':
  process.serve(prepare)
