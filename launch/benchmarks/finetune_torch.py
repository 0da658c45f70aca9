"""The same fine-tuning step out of transformers' parts.

OpenAIGPTLMHeadModel with a linear classifier on the states at the extract
token, and the objective of P §3.2: task plus half of the language model's, on
the same batches.
"""

import time
from typing import Any

from benchmarks import process, shapes, train_torch


def prepare(
  settings: dict[str, Any],
) -> tuple[process.Measure, dict[str, Any]]:
  import torch
  import transformers
  from torch.nn import functional

  config = shapes.openai_config(settings)
  config.vocab_size += 3  # start, delimiter, extract
  torch.manual_seed(0)
  model = transformers.OpenAIGPTLMHeadModel(config).train()
  model.classifier = torch.nn.Linear(config.n_embd, settings['classes'])
  drop = torch.nn.Dropout(0.1)
  adam = train_torch.optimizer(model)
  batches = [
    {name: torch.from_numpy(x) for name, x in batch.items()}
    for batch in shapes.read_batches(settings['batches'])
  ]

  def step(batch) -> None:
    tokens = batch['tokens'][:, 0].long()
    targets = tokens.masked_fill(batch['lm_weights'][:, 0] == 0, -100)
    with train_torch.autocast(settings):
      h = model.transformer(tokens).last_hidden_state
      logits = model.lm_head(h[:, :-1])
      lm = functional.cross_entropy(
        logits.flatten(0, 1), targets[:, 1:].flatten()
      )
      rows = torch.arange(len(h))
      picked = h[rows, batch['extract'][:, 0].long()]
      out = model.classifier(drop(picked))
      loss = functional.cross_entropy(out, batch['label'].long()) + 0.5 * lm
    train_torch.update(model, adam, loss)

  def measure() -> dict[str, float]:
    started = time.perf_counter()
    for batch in batches:
      step(batch)
    seconds = time.perf_counter() - started
    examples = sum(float(batch['example_weight'].sum()) for batch in batches)
    return {'examples_per_second': examples / seconds}

  measure()
  return measure, train_torch.versions()


if __name__ == '__main__':
  process.serve(prepare)
