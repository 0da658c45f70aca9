"""What a Hugging Face folder says of the run it came from.

config.json for the classes that read it, with our own model configuration in
it so that the way back loses nothing, and README.md, the model card.
"""

from typing import Any

from gpt1_jax.model import gpt
from gpt1_jax.settings import GPTConfig

OURS = 'gpt1_jax'  # key of config.json


def config(
  model: GPTConfig, meta: dict[str, Any], trained_by: str, step: int
) -> dict[str, Any]:
  """config.json of OpenAIGPTLMHeadModel.

  Args:
    model: of the checkpoint.
    meta: its JSON part.
    trained_by: 'pretrain', 'finetune' or 'convert'.
    step: updates applied.
  """
  return {
    'architectures': ['OpenAIGPTLMHeadModel'],
    'model_type': 'openai-gpt',
    'vocab_size': model.token_rows,
    'n_positions': model.n_ctx,
    'n_embd': model.n_embd,
    'n_layer': model.n_layer,
    'n_head': model.n_head,
    'afn': 'gelu',
    'embd_pdrop': model.embd_pdrop,
    'attn_pdrop': model.attn_pdrop,
    'resid_pdrop': model.resid_pdrop,
    'layer_norm_epsilon': 1e-5,
    'initializer_range': 0.02,
    'torch_dtype': 'float32',
    OURS: {**meta, 'command': trained_by, 'step': step},
  }


def readme(
  name: str,
  model: GPTConfig,
  facts: dict[str, Any],
  scores: dict[str, Any] | None,
  tokenizer: dict[str, Any],
  step: int,
  head: dict[str, Any] | None,
) -> str:
  """The model card.

  Args:
    name: of the run.
    model: of the checkpoint.
    facts: config.json of the run.
    scores: scores.json of the run, None if it has none.
    tokenizer: its description, as in meta.json.
    step: updates applied.
    head: of a fine-tuned run, else None.
  """
  parts = [
    _FRONT.format(name=name),
    _table('Model', _model_rows(model)),
    _table('Training', _training_rows(facts, scores, step)),
    _USE.format(n_ctx=model.n_ctx),
    _tokenizer_text(model, tokenizer),
  ]
  if head:
    D, Y = head['clf']['kernel'].shape
    parts.append(_HEAD.format(D=D, Y=Y))
  return '\n'.join(parts)


_FRONT = """\
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
"""

_USE = """\
## Use

    from transformers import AutoTokenizer, OpenAIGPTLMHeadModel

    tokenizer = AutoTokenizer.from_pretrained(folder)
    model = OpenAIGPTLMHeadModel.from_pretrained(folder)
    batch = tokenizer('It was a dark', return_tensors='pt')
    tokens = model.generate(**batch, max_length={n_ctx}, do_sample=True)
    print(tokenizer.decode(tokens[0]))
"""

_SENTENCEPIECE = """\
## Tokenizer

BPE of {merges:,} merges, trained with SentencePiece (`tokenizer.model`);
`tokenizer.json` gives the same ids. Text is lower-cased; punctuation and white
space are standardised; a newline is a token. Of characters outside the
alphabet, a run within a word is one unknown. Of ftfy's mending, which the
training text went through, `tokenizer.json` has quotation marks, line ends,
control characters and NFC, but not the repair of a wrong encoding.
"""

_ORIGINAL = """\
## Tokenizer

The original vocabulary of GPT-1 (`vocab.json`, `merges.txt`): {merges:,}
merges over words that spaCy's English rules split. `tokenizer.json` follows
those rules with regular expressions, which split each of the 7.6 million words
of 58 English novels as spaCy does; web addresses and rare emoticons may come
out otherwise. A newline is a token. Of ftfy's mending it has quotation marks,
line ends, control characters and NFC, but not the repair of a wrong encoding.
"""

_SPECIALS = """
Rows {start}, {delimiter} and {extract} are the start, delimiter and extract
tokens of fine-tuning; no text makes them.
"""

_HEAD = """\
## Head

`head.safetensors` holds the head of the task it was fine-tuned on: clf.kernel
[{D}, {Y}] and clf.bias [{Y}], applied to the last hidden state at the extract
token.
"""


def _table(title: str, rows: list[tuple[str, Any]]) -> str:
  lines = [f'## {title}', '', '| | |', '|---|---|']
  lines += [
    f'| {label} | {str(value).replace("|", chr(92) + "|")} |'
    for label, value in rows
  ]
  return '\n'.join([*lines, ''])


def _model_rows(model: GPTConfig) -> list[tuple[str, Any]]:
  return [
    ('parameters', f'{gpt.num_parameters(model):,}'),
    ('layers', model.n_layer),
    ('width', model.n_embd),
    ('heads', model.n_head),
    ('context', f'{model.n_ctx} tokens'),
    ('rows of tokens', f'{model.token_rows:,}'),
  ]


def _training_rows(
  facts: dict[str, Any], scores: dict[str, Any] | None, step: int
) -> list[tuple[str, Any]]:
  """The figures of scores.json and the settings of config.json."""
  settings = facts['config']
  rows: list[tuple[str, Any]] = [
    ('command', f'gpt1_jax.{facts["command"]}'),
    ('updates', f'{step:,}'),
    ('commit', facts['commit'] or 'unknown'),
  ]
  if facts['command'] == 'convert':
    return [*rows, ('trained', 'elsewhere; not known')]
  rows += [
    ('batch', f'{settings["data"]["batch_size"]} sequences'),
    ('peak learning rate', settings['optim']['peak_lr']),
    ('optimiser', f'{settings["optim"]["variant"]} (Adam, decoupled L2)'),
    ('computed in', facts['model']['dtype']),
    ('seed', settings['train']['seed']),
  ]
  if not scores:
    return [*rows, ('scores', 'not finished')]
  if facts['command'] == 'pretrain':
    rows += [
      ('tokens seen', f'{scores["tokens_seen"]:,}'),
      ('validation tokens', f'{scores["tokens"]:,}'),
      ('perplexity a token', f'{scores["eval_perplexity"]:.2f}'),
      ('perplexity a word', f'{scores["eval_word_perplexity"]:.2f}'),
    ]
  else:
    rows += [
      ('task', scores['task']),
      (f'{scores["metric"]}, {scores["split"]} set', f'{scores["score"]:.4f}'),
      ('examples', f'{scores["examples"]:,}'),
    ]
  if scores['step'] != step:
    rows.append(('scores are of update', f'{scores["step"]:,}'))
  return rows


def _tokenizer_text(model: GPTConfig, tokenizer: dict[str, Any]) -> str:
  text = _ORIGINAL if tokenizer['kind'] == 'openai' else _SENTENCEPIECE
  text = text.format(**tokenizer)
  if model.n_special:
    start, delimiter, extract = range(model.vocab_size, model.token_rows)
    text += _SPECIALS.format(start=start, delimiter=delimiter, extract=extract)
  return text
