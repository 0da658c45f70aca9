"""Builds the right inputs that launch/malformed.py changes."""

import json
import pathlib
import subprocess
import sys
from collections.abc import Iterator

import checkout
import file_readers
import run_readers
import task_readers
from file_readers import Entry

import gpt1_jax
from gpt1_jax.corpus import tokenization
from gpt1_jax.interop import conversion
from gpt1_jax.train import run as run_lib
from tests.support import released, run_folders, vocabulary

_SHAPE = {'n_layer': 2, 'n_head': 2, 'n_embd': 16, 'n_ctx': 32}


def entries(top: pathlib.Path) -> Iterator[Entry]:
  """Builds the inputs in a folder; yields the readers in a fixed order."""
  prepared, run = top / 'prepared', top / 'run'
  _prepare(top / 'books', prepared)
  released.new_run(run, tokenization.load(prepared), std=0.1, **_SHAPE)
  header = run_lib.load(str(run))
  header['config']['data']['path'] = 'x'
  header |= {'data_fingerprint': 'x', 'command': 'pretrain'}
  (run / 'config.json').write_text(json.dumps(header))
  reported = run_folders.everything(top / 'reported')
  original, openai = top / 'original', top / 'openai'
  vocabulary.write_openai(original)
  released.write(openai)
  huggingface, folder = top / 'huggingface', top / 'tokenizer.json'
  conversion.to_huggingface(run, huggingface)
  bare = top / 'bare'
  released.new_run(
    bare, tokenization.load(f'openai:{original}'), std=0.1, **_SHAPE
  )
  conversion.to_huggingface(bare, folder)
  for name in ('vocab.json', 'merges.txt'):
    (folder / name).unlink()
  texts = top / 'documents'
  texts.mkdir()
  yield from task_readers.setting_readers()
  yield from file_readers.document_readers(texts)
  yield from file_readers.tokenizer_readers(prepared, original, folder)
  yield from file_readers.shard_readers(prepared)
  yield from task_readers.task_readers(top)
  yield from task_readers.model_readers(huggingface, openai)
  yield from task_readers.server_readers(gpt1_jax.load(run))
  yield from run_readers.run_readers(run, reported)


def _prepare(books: pathlib.Path, output: pathlib.Path) -> None:
  books.mkdir()
  for number in range(4):
    words = (f'word{i * (number + 1) % 97} of it.' for i in range(300))
    (books / f'{number}.txt').write_text(' '.join(words))
  command = [
    *(sys.executable, '-m', 'gpt1_jax.prepare', f'--input={books}'),
    *(f'--output={output}', '--merges=40', '--workers=1'),
    *('--validation_fraction=0', '--hold_out=*/3.txt'),
  ]
  environment = checkout.environment()
  subprocess.run(command, env=environment, check=True, capture_output=True)
