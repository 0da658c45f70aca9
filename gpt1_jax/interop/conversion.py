"""Converts released weights to a run, or a run to a Hugging Face folder.

Like any run, a converted run holds config.json, a tokenizer and a checkpoint;
finetune, evaluate and generate accept it.
"""

import contextlib
import dataclasses
import pathlib
import shutil
from collections.abc import Iterator

import jax
import jax.numpy as jnp
import numpy as np

from gpt1_jax import building, config as config_lib, staging, storage
from gpt1_jax.corpus import openai_tokenizer, tokenization, vocabulary
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
from gpt1_jax.train import belonging, checkpoint, run, score_file

_MARGIN = 10_000_000  # bytes of a run's files other than the weights
DESCRIPTIONS = {
  'run': 'a run',
  'openai': "a folder of OpenAI's arrays",
  'huggingface': 'a Hugging Face folder',
}


def detect(source: storage.Path) -> str:
  """Returns the kind of a folder, a key of DESCRIPTIONS.

  Raises:
    UserError: the folder does not exist or is of no known kind.
  """
  if not source.is_dir():
    what = 'a file, not a folder' if source.exists() else 'no such folder'
    raise UserError(f'{source}: {what}')
  if (source / 'checkpoints').is_dir():
    return 'run'
  if (source / openai.SHAPES).exists() or any(
    source.glob(openai.PART.format('*'))
  ):
    return 'openai'
  names = (huggingface.CONFIG, huggingface.SAFETENSORS, huggingface.BIN)
  if any((source / name).exists() for name in names):
    return 'huggingface'
  if runs := sorted(x.parent for x in source.glob('*/checkpoints')):
    raise UserError(f'{source}: holds runs; give one, such as {runs[0]}')
  raise UserError(
    f'{source}: no model here (looked for {openai.SHAPES} and '
    f'{openai.PART.format("N")}; for {", ".join(names)}; for the checkpoints '
    'of a run)'
  )


def read_folder(
  source: pathlib.Path, n_head: int | None = None
) -> layouts.Weights:
  """Reads a folder of OpenAI's arrays or a Hugging Face folder.

  Raises:
    UserError: the folder is of neither kind, or damaged.
  """
  if detect(source) == 'openai':
    return openai.read(source, n_head)
  return huggingface.read(source)


def read_weights(source: str, stage_to: str) -> checkpoint.Checkpoint:
  """Reads the weights of a run or of another program's folder.

  Args:
    source: a run, a folder of OpenAI's arrays, or a Hugging Face folder; the
      latter two with their vocabulary.

  Raises:
    UserError: the folder holds none of these, or is damaged.
  """
  run_folder, step = checkpoint.split_step(source)
  if detect(storage.path(run_folder)) == 'run':
    return checkpoint.read(run_folder, step)
  return fetch(source, stage_to)[0]


def fetch(
  source: str, stage_to: str
) -> tuple[checkpoint.Checkpoint, tokenization.Tokenizer]:
  """Reads another program's folder; copies one in a bucket to `stage_to`.

  Raises:
    UserError: the folder holds no weights, or is damaged.
  """
  here = pathlib.Path(staging.fetch(source, stage_to))
  return as_checkpoint(read_folder(here), here)


def as_checkpoint(
  weights: layouts.Weights,
  source: pathlib.Path,
  tokenizer_path: str | None = None,
) -> tuple[checkpoint.Checkpoint, tokenization.Tokenizer]:
  """Returns another program's weights as a checkpoint, and the tokenizer.

  Args:
    tokenizer_path: folder with the vocabulary; None means `source`.

  Raises:
    UserError: the vocabulary is missing or does not fit the weights, or the
      disk is too full.
  """
  tokenizer = tokenization.load(tokenizer_path or source)
  named = weights.named
  rows, n_embd = named[layouts.TOKENS].shape
  n_special = rows - tokenizer.vocab_size
  if n_special not in (0, vocabulary.NUM_SPECIALS):
    raise UserError(
      f'{source}: {rows} token embeddings, but the vocabulary in '
      f'{tokenizer_path or source} needs {tokenizer.vocab_size} (or '
      f'{vocabulary.NUM_SPECIALS} more, for start, delimiter and extract)'
    )
  shape = {
    'n_layer': (len(named) - 2) // layouts.ARRAYS_PER_BLOCK,
    'n_embd': n_embd,
    'n_ctx': len(named[layouts.POSITIONS]),
    'vocab_size': tokenizer.vocab_size,
    'n_special': n_special,
  }
  model = config_lib.parse(GPTConfig, {**weights.settings, **shape})
  params = {'gpt': layouts.from_named(named, n_head=model.n_head)}
  if weights.head:
    params['head'] = weights.head
  meta = checkpoint.CheckpointMeta(model, tokenizer.fingerprint)
  return checkpoint.Checkpoint(params, meta, weights.step), tokenizer


def to_run(
  weights: layouts.Weights,
  source: pathlib.Path,
  output: storage.Path,
  tokenizer_path: str | None = None,
) -> None:
  """Writes another program's weights as a run; raises as `as_checkpoint`."""
  found, tokenizer = as_checkpoint(weights, source, tokenizer_path)
  model = found.meta.model
  assert isinstance(model, GPTConfig)
  parameters = gpt.num_parameters(model)
  _check_space(output, 4 * parameters)
  with _building(output) as workdir:
    run.start(
      str(workdir),
      'convert',
      {'input': str(source), 'tokenizer': tokenizer_path},
      {
        'model': dataclasses.asdict(model),
        'tokenizer_fingerprint': found.meta.tokenizer_fingerprint,
        'parameters': parameters,
        'num_steps': weights.step,
      },
    )
    tokenizer.save(workdir / 'tokenizer')
    checkpoints = checkpoint.Checkpoints(str(workdir), keep=1, keep_best=False)
    with contextlib.closing(checkpoints):
      state = {'step': np.int32(weights.step), 'params': found.params}
      checkpoints.save(found.step, state, found.meta)
  if weights.skipped:
    print(
      f'{source}: skipped {", ".join(weights.skipped)}: not part of the model'
    )
  print(
    f'{source}: {model.n_layer} layers, width {model.n_embd}, '
    f'{parameters:,} parameters'
  )


def to_huggingface(
  workdir: storage.Path, output: storage.Path, step: int | None = None
) -> None:
  """Writes a run as a folder that Hugging Face's classes load.

  Args:
    step: checkpoint to convert; None means the best, else the latest.

  Raises:
    UserError: the checkpoint does not exist, the run is not a GPT, or a library
      is missing.
  """
  found = checkpoint.read(str(workdir), step)
  tokenizer = belonging.tokenizer(str(workdir), found.meta)
  text = tokenizer_json.build(tokenizer)
  header = run.load(str(workdir))
  model = found.meta.model
  if not isinstance(model, GPTConfig):
    raise UserError(
      f'{workdir}: its model.kind is {model.kind}; only gpt can be converted '
      'to openai-gpt'
    )
  card = model_card.readme(
    storage.resolved(workdir).name,
    found,
    header,
    score_file.find(workdir, header['command']),
    tokenizer.description(),
  )
  with _building(output) as folder:
    tokenizer.save(folder)
    if tokenizer.kind == 'openai':  # Hugging Face's names for these files
      (folder / openai_tokenizer.ENCODER_FILE).rename(folder / 'vocab.json')
      (folder / openai_tokenizer.MERGES_FILE).rename(folder / 'merges.txt')
    if text:
      storage.write_text(folder / 'tokenizer.json', text)
    else:
      print(f'{workdir}: no tokenizer.json: the vocabulary lacks some pieces')
    settings = {
      'tokenizer_class': 'PreTrainedTokenizerFast',
      'model_max_length': model.n_ctx,
      'clean_up_tokenization_spaces': False,
      'model_input_names': ['input_ids', 'attention_mask'],
    }
    storage.write_json(folder / 'tokenizer_config.json', settings)
    storage.write_text(folder / 'README.md', card)
    huggingface.write(folder, found, header['command'])


def to_slim_run(
  workdir: storage.Path, output: storage.Path, step: int | None = None
) -> None:
  """Writes a run's weights in bfloat16, without the optimiser's state.

  The result is a run that finetune, evaluate and generate accept, a sixth of
  the size. It does not record where its data was.

  Args:
    step: checkpoint to take; None means the best, else the latest.

  Raises:
    UserError: the checkpoint does not exist.
  """
  found = checkpoint.read(str(workdir), step)
  header = run.load(str(workdir))
  if header['command'] != 'convert':
    header['config']['data']['path'] = ''
  if 'forked_from' in header:
    name = storage.path(header['forked_from']['run']).name
    header['forked_from']['run'] = name
  scores = score_file.find(workdir, header['command'])
  params = jax.tree.map(lambda x: x.astype(jnp.bfloat16), found.params)
  with _building(output) as folder:
    storage.write_json(folder / 'config.json', header)
    if scores:
      score_file.write(folder, scores)
    tokenization.load(workdir).save(folder / 'tokenizer')
    checkpoints = checkpoint.Checkpoints(str(folder), keep=1, keep_best=False)
    with contextlib.closing(checkpoints):
      state = {'step': np.int32(found.step), 'params': params}
      checkpoints.save(found.step, state, found.meta)


def _check_space(output: storage.Path, size: int) -> None:
  """Raises UserError if `size` bytes do not fit on a local disk."""
  output = storage.resolved(output)
  if not isinstance(output, pathlib.Path):
    return
  parents = (parent for parent in output.parents if parent.exists())
  free = shutil.disk_usage(next(parents)).free
  if free < size + _MARGIN:
    raise UserError(
      f'{output}: the disk is too full: {free / 1e6:,.0f} MB are free, '
      f'{(size + _MARGIN) / 1e6:,.0f} MB are needed; nothing was written: free '
      'some disk space and run the command again'
    )


@contextlib.contextmanager
def _building(output: storage.Path) -> Iterator[storage.Path]:
  """Yields an empty folder that becomes `output` if the block succeeds.

  A bucket cannot rename, so there the folder is `output` itself. The block must
  write the file that makes the folder loadable last.
  """
  output = storage.writable(output)
  if isinstance(output, pathlib.Path):
    with building.atomic_dir(output) as path:
      yield path
    return
  try:
    yield output
  except BaseException:
    storage.remove(output)
    raise
