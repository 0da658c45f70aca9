"""A run from the files of other programs, and the way back.

What `convert` does. OpenAI's arrays and Hugging Face folders become a run (its
config, tokenizer and one checkpoint); a run becomes a Hugging Face folder.
"""

import pathlib

import numpy as np

from gpt1_jax import config as config_lib, storage
from gpt1_jax.corpus import openai_tokenizer, tokenization
from gpt1_jax.errors import UserError
from gpt1_jax.interop import (
  huggingface,
  layouts,
  model_card,
  openai,
  tokenizer_json,
)
from gpt1_jax.model import gpt
from gpt1_jax.settings import GPTConfig
from gpt1_jax.tasks import features
from gpt1_jax.train import checkpoint, run

# What no file of weights says, as in configs/pretrain.py:openai (C: train.py).
RELEASED = {
  'kind': 'gpt',
  'embd_pdrop': 0.1,
  'attn_pdrop': 0.1,
  'resid_pdrop': 0.1,
  'embedding_dropout': 'matrix',
  'softmax_rows': 'all',
  'dtype': 'float32',
  'attention': 'auto',
  'remat': 'auto',
  'unroll': 1,
}
_HEAD_WIDTH = 64  # P §4.1
CALLED = {
  'run': 'a run',
  'openai': "a folder of OpenAI's arrays",
  'huggingface': 'a Hugging Face folder',
}


def kind_of(source: storage.Path) -> str:
  """'run', 'openai' or 'huggingface': what the folder holds.

  Raises:
    UserError: none of them, or no such folder.
  """
  if not source.is_dir():
    raise UserError(f'{source}: no such folder')
  if (source / 'checkpoints').is_dir():
    return 'run'
  if (source / openai.SHAPES).exists() or any(
    source.glob(openai.PART.format('*'))
  ):
    return 'openai'
  names = (huggingface.CONFIG, huggingface.SAFETENSORS, huggingface.BIN)
  if any((source / name).exists() for name in names):
    return 'huggingface'
  raise UserError(
    f'{source}: nothing to convert here (looked for {openai.SHAPES} and '
    f'{openai.PART.format("N")}; for {", ".join(names)}; for the '
    'checkpoints of a run)'
  )


def to_run(
  kind: str,
  source: pathlib.Path,
  workdir: storage.Path,
  tokenizer_path: str | None,
  n_head: int | None,
) -> None:
  """Weights of another program → a run: its config, tokenizer, checkpoint.

  Args:
    kind: 'openai' or 'huggingface'.
    source: the folder.
    workdir: an empty folder.
    tokenizer_path: where the vocabulary is; None: in `source`.
    n_head: heads; None: as many as are 64 wide. Of 'openai' only.

  Raises:
    UserError: something is missing, or is not what is expected.
  """
  tokenizer = tokenization.load(tokenizer_path or source)
  head, step = None, 0
  if kind == 'openai':
    named = openai.read(source)
    facts = dict(RELEASED)
    n_embd = named[layouts.TOKENS].shape[1]
    if n_head is None and n_embd % _HEAD_WIDTH:
      raise UserError(
        f'{source}: how many heads share the {n_embd} dimensions? give --n_head'
      )
    facts['n_head'] = n_head or n_embd // _HEAD_WIDTH
  else:
    config, named, left = huggingface.read(source)
    if left:
      print(f'{source}: left out, no part of the model: {", ".join(left)}')
    ours = config.get(model_card.OURS, {})
    facts = {**RELEASED, **ours.get('model', {}), 'n_head': config['n_head']}
    for name in ('embd_pdrop', 'attn_pdrop', 'resid_pdrop'):
      facts[name] = config.get(name, facts[name])
    head, step = huggingface.read_head(source), ours.get('step', 0)
  rows = len(named[layouts.TOKENS])
  n_special = rows - tokenizer.vocab_size
  if n_special not in (0, features.NUM_SPECIALS):
    raise UserError(
      f'{source}: {rows} rows of tokens, {tokenizer.vocab_size} expected by '
      f'the vocabulary of {tokenizer_path or source} (or '
      f'{features.NUM_SPECIALS} more, for start, delimiter and extract)'
    )
  facts |= {
    'n_layer': (len(named) - 2) // layouts.ARRAYS_A_BLOCK,
    'n_embd': named[layouts.TOKENS].shape[1],
    'n_ctx': len(named[layouts.POSITIONS]),
    'vocab_size': tokenizer.vocab_size,
    'n_special': n_special,
  }
  model = config_lib.parse(GPTConfig, facts)
  params = {'gpt': layouts.from_named(named, n_head=model.n_head)}
  if head:
    params['head'] = head
  meta = checkpoint.CheckpointMeta(model, tokenizer.fingerprint)
  run.start(
    str(workdir),
    'convert',
    {'input': str(source), 'tokenizer': tokenizer_path},
    {
      **meta.as_json(),
      'parameters': gpt.num_parameters(model),
      'num_steps': step,
    },
  )
  tokenizer.save(workdir / 'tokenizer')
  checkpoints = checkpoint.Checkpoints(str(workdir), keep=1, keep_best=False)
  state = {'step': np.int32(step), 'params': params}
  checkpoints.save(step, state, meta)
  checkpoints.close()
  print(
    f'{source}: {CALLED[kind]}, {model.n_layer} layers, width {model.n_embd}, '
    f'{gpt.num_parameters(model):,} parameters'
  )


def to_huggingface(
  workdir: storage.Path, directory: pathlib.Path, step: int | None
) -> None:
  """A run → a folder for the other library.

  Args:
    workdir: the run.
    directory: an empty folder.
    step: which checkpoint; None: the best or the latest.

  Raises:
    UserError: the run has no such checkpoint, or a library is missing.
  """
  tokenizer = tokenization.load(workdir)
  text = tokenizer_json.build(tokenizer)
  params, meta, step = checkpoint.read(str(workdir), step)
  facts = run.load(str(workdir))
  model = meta.model
  if model.kind != 'gpt':
    raise UserError(
      f'{workdir}: of kind {model.kind}; only a gpt has the layout of '
      'openai-gpt'
    )
  config = model_card.config(model, meta.as_json(), facts['command'], step)
  head = params.get('head')
  named = layouts.to_named(params['gpt'])
  huggingface.write(directory, config, named, head)
  tokenizer.save(directory)
  if tokenizer.kind == 'openai':  # the names it has there
    (directory / openai_tokenizer.ENCODER_FILE).rename(directory / 'vocab.json')
    (directory / openai_tokenizer.MERGES_FILE).rename(directory / 'merges.txt')
  if text:
    (directory / 'tokenizer.json').write_text(text, encoding='utf-8')
  else:
    print(f'{workdir}: no tokenizer.json, its vocabulary lacks some pieces')
  storage.write_json(
    directory / 'tokenizer_config.json',
    {
      'tokenizer_class': 'PreTrainedTokenizerFast',
      'model_max_length': model.n_ctx,
      'clean_up_tokenization_spaces': False,
      'model_input_names': ['input_ids', 'attention_mask'],
    },
  )
  scores = workdir / 'scores.json'
  readme = model_card.readme(
    storage.resolved(workdir).name,
    model,
    facts,
    storage.read_json(scores) if scores.exists() else None,
    tokenizer.description(),
    step,
    head,
  )
  (directory / 'README.md').write_text(readme, encoding='utf-8')
