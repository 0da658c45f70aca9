"""Candidates from other libraries: torch with transformers, SentencePiece.

Written as users of these libraries would write them: with fused Adam, gradient
clipping, and torch.autocast for bfloat16.
"""

import contextlib
import pathlib
from collections.abc import Mapping
from typing import TYPE_CHECKING

from benchmarks.case import Case
from benchmarks.process import Repeat, timed

_GPT2 = 'GPT2LMHeadModel'

if TYPE_CHECKING:
  import torch
  import transformers


def train(case: Case) -> tuple[Repeat, dict[str, str]]:
  """Trains on random tokens, on a GPU if available; counts tokens.

  The network is OpenAIGPTLMHeadModel, or GPT2LMHeadModel with torch's fused
  attention.
  """
  import torch
  import transformers

  torch.manual_seed(0)
  config = case.openai_config()
  device = 'cuda' if torch.cuda.is_available() else 'cpu'
  if case.network == _GPT2:
    model = transformers.GPT2LMHeadModel(_gpt2(config)).train()
  else:
    model = transformers.OpenAIGPTLMHeadModel(config).train()
  model.to(device)
  adam = _adam(model)
  tokens = torch.from_numpy(case.random_tokens(config.n_positions)).long()
  tokens = tokens.to(device)
  forward = torch.compile(model) if case.compile else model

  def repeat() -> float:
    for _ in range(case.steps):
      with _autocast(case):
        loss = forward(tokens, labels=tokens).loss
      _update(model, adam, loss)
    return tokens.numel() * case.steps

  repeat()
  return timed(repeat), _versions()


def finetune(case: Case) -> tuple[Repeat, dict[str, str]]:
  """Fine-tunes on batches from a file; counts examples.

  Adds a linear classifier to OpenAIGPTLMHeadModel's hidden state at the extract
  token, and minimises task loss + 0.5 LM loss (P §3.2).
  """
  import torch
  import transformers
  from torch.nn import functional

  config = case.openai_config()
  config.vocab_size += 3  # start, delimiter, extract
  torch.manual_seed(0)
  model = transformers.OpenAIGPTLMHeadModel(config).train()
  model.classifier = torch.nn.Linear(config.n_embd, case.classes)
  drop = torch.nn.Dropout(0.1)
  adam = _adam(model)
  batches = [
    {name: torch.from_numpy(x) for name, x in batch.items()}
    for batch in case.read_batches()
  ]
  examples = sum(float(batch['example_weight'].sum()) for batch in batches)

  def update(batch: Mapping[str, 'torch.Tensor']) -> None:
    tokens = batch['tokens'][:, 0].long()
    targets = tokens.masked_fill(batch['lm_weights'][:, 0] == 0, -100)
    with _autocast(case):
      h = model.transformer(tokens).last_hidden_state
      logits = model.lm_head(h[:, :-1])
      lm = functional.cross_entropy(
        logits.flatten(0, 1), targets[:, 1:].flatten()
      )
      at_extract = h[torch.arange(len(h)), batch['extract'][:, 0].long()]
      out = model.classifier(drop(at_extract))
      loss = functional.cross_entropy(out, batch['label'].long()) + 0.5 * lm
    _update(model, adam, loss)

  def repeat() -> float:
    for batch in batches:
      update(batch)
    return examples

  repeat()
  return timed(repeat), _versions()


def generate(case: Case) -> tuple[Repeat, dict[str, str]]:
  """Generates greedily with transformers; counts tokens.

  GPT2LMHeadModel of the same size has the key-value cache that
  OpenAIGPTLMHeadModel lacks.
  """
  import torch
  import transformers

  transformers.logging.set_verbosity_error()
  config = case.openai_config()
  if case.network == _GPT2:
    config = _gpt2(config)
  torch.manual_seed(0)
  model = getattr(transformers, case.network)(config).eval()
  tokens = torch.from_numpy(case.random_tokens(case.prompt)).long()

  @torch.inference_mode()
  def repeat() -> float:
    out = model.generate(
      tokens,
      attention_mask=torch.ones_like(tokens),
      do_sample=False,
      min_new_tokens=case.tokens,
      max_new_tokens=case.tokens,
      eos_token_id=None,
      pad_token_id=0,
    )
    return float(out.numel() - tokens.numel())

  repeat()
  return timed(repeat), _versions()


def encode(case: Case) -> tuple[Repeat, dict[str, str]]:
  """Encodes lines in memory with plain SentencePiece; counts bytes."""
  import sentencepiece

  processor = sentencepiece.SentencePieceProcessor(
    model_file=f'{case.tokenizer}/tokenizer.model'
  )
  files = sorted(pathlib.Path(case.spool).glob('*.clean'))
  size = sum(path.stat().st_size for path in files)
  lines = [
    line
    for path in files
    for line in path.read_text(encoding='utf-8').lower().split('\n')
  ]

  def repeat() -> float:
    processor.Encode(lines, num_threads=case.cores)
    return size

  return timed(repeat), {'sentencepiece': sentencepiece.__version__}


def _gpt2(config: 'transformers.OpenAIGPTConfig') -> 'transformers.GPT2Config':
  """Returns a GPT-2 of the same size and dropout, with fused attention."""
  import transformers

  names = ('vocab_size', 'n_positions', 'n_embd', 'n_layer', 'n_head')
  rates = ('embd_pdrop', 'attn_pdrop', 'resid_pdrop')
  same = {name: getattr(config, name) for name in (*names, *rates)}
  return transformers.GPT2Config(**same, attn_implementation='sdpa')


def _adam(model: 'torch.nn.Module') -> 'torch.optim.Optimizer':
  """Returns the recipe's Adam (configs/pretrain.py), fused."""
  import torch

  return torch.optim.AdamW(
    model.parameters(), lr=2.5e-4, weight_decay=0.01, fused=True
  )


def _update(
  model: 'torch.nn.Module', adam: 'torch.optim.Optimizer', loss: 'torch.Tensor'
) -> None:
  """Computes gradients, clips them and updates the parameters."""
  import torch

  loss.backward()
  torch.nn.utils.clip_grad_norm_(model.parameters(), 1.0)
  adam.step()
  adam.zero_grad(set_to_none=True)
  loss.item()


def _autocast(case: Case) -> contextlib.AbstractContextManager[None]:
  import torch

  if case.dtype == 'bfloat16':
    device = 'cuda' if torch.cuda.is_available() else 'cpu'
    return torch.autocast(device, torch.bfloat16)
  return contextlib.nullcontext()


def _versions() -> dict[str, str]:
  import torch
  import transformers

  return {'torch': torch.__version__, 'transformers': transformers.__version__}
