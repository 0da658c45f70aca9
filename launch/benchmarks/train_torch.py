"""The training step of `transformers`' OpenAIGPTLMHeadModel, on random tokens.

As its users would write it: Adam fused, weights decayed, gradients clipped,
and under torch.autocast where the products are to be bfloat16.
"""

import contextlib
import time
from typing import Any

from benchmarks import process, shapes


def prepare(
  settings: dict[str, Any],
) -> tuple[process.Measure, dict[str, Any]]:
  import torch
  import transformers

  torch.manual_seed(0)
  model = transformers.OpenAIGPTLMHeadModel(shapes.openai_config(settings))
  model.train()
  adam = optimizer(model)
  tokens = torch.from_numpy(shapes.tokens(settings)).long()
  forward = torch.compile(model) if settings['compile'] else model
  steps = settings['steps']

  def measure() -> dict[str, float]:
    started = time.perf_counter()
    for _ in range(steps):
      with autocast(settings):
        loss = forward(tokens, labels=tokens).loss
      update(model, adam, loss)
    seconds = (time.perf_counter() - started) / steps
    return {
      'tokens_per_second': tokens.numel() / seconds,
      'seconds': seconds,
      **process.memory_bytes(),
    }

  measure()
  return measure, versions()


def optimizer(model: Any) -> Any:
  """The recipe's Adam (configs/pretrain.py), fused."""
  import torch

  return torch.optim.AdamW(
    model.parameters(), lr=2.5e-4, weight_decay=0.01, fused=True
  )


def update(model: Any, adam: Any, loss: Any) -> None:
  """Backward, clipping, Adam."""
  import torch

  loss.backward()
  torch.nn.utils.clip_grad_norm_(model.parameters(), 1.0)
  adam.step()
  adam.zero_grad(set_to_none=True)
  loss.item()


def autocast(settings: dict[str, Any]) -> contextlib.AbstractContextManager:
  """What computes in the type of the settings."""
  import torch

  if shapes.config(settings)['model']['dtype'] == 'bfloat16':
    return torch.autocast('cpu', torch.bfloat16)
  return contextlib.nullcontext()


def versions() -> dict[str, Any]:
  import torch
  import transformers

  return {
    'torch': torch.__version__,
    'transformers': transformers.__version__,
    'threads': torch.get_num_threads(),
  }


if __name__ == '__main__':
  process.serve(prepare)
