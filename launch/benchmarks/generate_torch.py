"""`generate` of transformers: OpenAIGPTLMHeadModel's, or GPT2LMHeadModel's.

GPT-2 of the same size has the cache of keys and values that the other lacks.
"""

import time
from typing import Any

from benchmarks import process, shapes, train_torch


def prepare(
  settings: dict[str, Any],
) -> tuple[process.Measure, dict[str, Any]]:
  import torch
  import transformers

  transformers.logging.set_verbosity_error()
  config = shapes.openai_config(settings)
  if settings['class'] == 'GPT2LMHeadModel':
    names = ('vocab_size', 'n_positions', 'n_embd', 'n_layer', 'n_head')
    config = transformers.GPT2Config(**{n: getattr(config, n) for n in names})
  torch.manual_seed(0)
  model = getattr(transformers, settings['class'])(config).eval()
  tokens = torch.from_numpy(shapes.tokens(settings, settings['prompt'])).long()
  count = settings['tokens']

  @torch.inference_mode()
  def measure() -> dict[str, float]:
    started = time.perf_counter()
    out = model.generate(
      tokens,
      attention_mask=torch.ones_like(tokens),
      do_sample=False,
      min_new_tokens=count,
      max_new_tokens=count,
      eos_token_id=None,
      pad_token_id=0,
    )
    seconds = time.perf_counter() - started
    made = out[:, tokens.shape[1] :]
    assert made.shape == (len(tokens), count)
    return {'tokens_per_second': made.numel() / seconds, 'seconds': seconds}

  measure()
  return measure, train_torch.versions()


if __name__ == '__main__':
  process.serve(prepare)
