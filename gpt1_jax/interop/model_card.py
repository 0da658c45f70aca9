"""Writes README.md, the model card of a Hugging Face folder.

All figures come from the run's files.
"""

from collections.abc import Mapping
from typing import Any

from gpt1_jax.corpus.vocabulary import TokenizerDescription
from gpt1_jax.model import gpt
from gpt1_jax.settings import GPTConfig
from gpt1_jax.train.checkpoint import Checkpoint
from gpt1_jax.train.run import RunHeader


def readme(
  name: str,
  found: Checkpoint,
  header: RunHeader,
  scores: Mapping[str, Any] | None,
  tokenizer: TokenizerDescription,
) -> str:
  """Returns the model card.

  Args:
    name: name of the run.
    found: the exported checkpoint, of a GPT.
    header: config.json of the run.
    scores: scores.json of the run, or None if it has none.
    tokenizer: `tokenizer` section of meta.json.
  """
  model = found.meta.model
  assert isinstance(model, GPTConfig)
  text = _CARD.format(
    name=name,
    model=_table(
      {
        'parameters': f'{gpt.num_parameters(model):,}',
        'layers': model.n_layer,
        'width': model.n_embd,
        'heads': model.n_head,
        'context': f'{model.n_ctx} tokens',
        'token embeddings': f'{model.token_rows:,}',
      }
    ),
    training=_table(_training(header, scores, found)),
    n_ctx=model.n_ctx,
    tokenizer=_TOKENIZERS[tokenizer['kind']].format(**tokenizer),
  )
  if model.n_special:
    start, delimiter, extract = range(model.vocab_size, model.token_rows)
    text += _SPECIALS.format(start=start, delimiter=delimiter, extract=extract)
  if head := found.params.get('head'):
    D, Y = head['clf']['kernel'].shape
    text += _HEAD.format(D=D, Y=Y)
  return text


_CARD = """\
---
library_name: transformers
pipeline_tag: text-generation
tags:
- openai-gpt
- gpt1_jax
---

# {name}

A GPT-1 (Radford, Narasimhan, Salimans, Sutskever 2018), trained or converted
with gpt1_jax and written by `python -m gpt1_jax.convert`. The weights are
those of the run, bit for bit in float32.

## Model

{model}

## Training

{training}

## Use

After `pip install transformers torch`:

    from transformers import AutoTokenizer, OpenAIGPTLMHeadModel

    tokenizer = AutoTokenizer.from_pretrained(folder)
    model = OpenAIGPTLMHeadModel.from_pretrained(folder)
    batch = tokenizer('It was a dark', return_tensors='pt')
    tokens = model.generate(**batch, max_length={n_ctx}, do_sample=True)
    print(tokenizer.decode(tokens[0]))

## Tokenizer

{tokenizer} A newline is a token. `tokenizer.json` repairs quotation marks, line
ends, control characters and NFC as ftfy does, but not a wrong encoding.
"""
_TOKENIZERS = {
  'sentencepiece': """\
BPE of {merges:,} merges, trained with SentencePiece (`tokenizer.model`);
`tokenizer.json` produces the same ids. Text is lower-cased; punctuation and
white space are standardised. A run of characters outside the alphabet becomes
one unknown token.""",
  'openai': """\
The original vocabulary of GPT-1 (`vocab.json`, `merges.txt`): {merges:,}
merges over words split by spaCy's English rules. `tokenizer.json` reproduces
the rules with regular expressions, which split each of the 7.6 million words of
58 English novels as spaCy does; web addresses and rare emoticons may be split
differently.""",
}
_SPECIALS = """
Ids {start}, {delimiter} and {extract} are the start, delimiter and extract
tokens of fine-tuning; no text encodes to them.
"""
_HEAD = """
## Head

`head.safetensors` holds the head of the fine-tuning task: clf.kernel [{D}, {Y}]
and clf.bias [{Y}], applied to the last hidden state at the extract token.
"""


def _table(rows: Mapping[str, object]) -> str:
  lines = [
    f'| {label} | {str(value).replace("|", chr(92) + "|")} |'
    for label, value in rows.items()
  ]
  return '\n'.join(['| | |', '|---|---|', *lines])


def _training(
  header: RunHeader, scores: Mapping[str, Any] | None, found: Checkpoint
) -> dict[str, object]:
  """Returns the rows of the training table by label."""
  rows: dict[str, object] = {
    'command': f'gpt1_jax.{header["command"]}',
    'updates': f'{found.step:,}',
    'commit': header['commit'] or 'unknown',
  }
  if header['command'] == 'convert':
    return rows | {'trained': 'elsewhere; details unknown'}
  config = header['config']
  rows |= {
    'batch': f'{config["data"]["batch_size"]} sequences',
    'peak learning rate': config['optim']['peak_lr'],
    'optimiser': f'{config["optim"]["variant"]} (Adam, decoupled L2)',
    'compute dtype': found.meta.model.dtype,
    'seed': config['train']['seed'],
  }
  if not scores:
    return rows | {'scores': 'not finished'}
  if header['command'] == 'pretrain':
    rows |= {
      'tokens seen': f'{scores["tokens_seen"]:,}',
      'validation tokens': f'{scores["tokens"]:,}',
      'perplexity per token': f'{scores["eval_perplexity"]:.2f}',
      'perplexity per word': f'{scores["eval_word_perplexity"]:.2f}',
    }
    if 'eval_bits_per_byte' in scores:
      rows['bits per byte'] = f'{scores["eval_bits_per_byte"]:.3f}'
  else:
    rows |= {
      'task': scores['task'],
      f'{scores["metric"]}, {scores["split"]} set': f'{scores["score"]:.4f}',
      'examples': f'{scores["examples"]:,}',
    }
  if scores['step'] != found.step:
    rows['scores measured after update'] = f'{scores["step"]:,}'
  return rows
