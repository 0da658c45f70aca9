"""Writes a run to evaluate without training, and every zero-shot task."""

import csv
import functools
import json

import jax
import jax.numpy as jnp
import numpy as np
from flax import linen as nn

from gpt1_jax.corpus import tokenization
from gpt1_jax.model import gpt
from gpt1_jax.settings import GPTConfig
from gpt1_jax.tasks import batches as batches_lib
from gpt1_jax.tasks.readers import rows
from gpt1_jax.tasks.zero_shot import evaluation, likelihood
from gpt1_jax.train import (
  checkpoint,
  run as run_lib,
  sharding,
  step as step_lib,
)
from tests.support import finetuning, vocabulary, winograd_files

MODEL = {**finetuning.MODEL, 'n_layer': 2, 'n_ctx': 48, 'embd_pdrop': 0.0}
STEPS = (3, 6)


@functools.cache
def tokenizer():
  """Trains a tokenizer of few merges, so that words are several tokens."""
  from pydoc_data import topics

  return vocabulary.train_bpe(list(topics.topics.values())[:20], 100)


def write_run(workdir):
  """Writes a run of two checkpoints, nothing learned but nothing alike."""
  words = tokenizer()
  config = GPTConfig(**MODEL, vocab_size=words.vocab_size, n_special=0)
  meta = checkpoint.CheckpointMeta(config, words.fingerprint)
  facts = {**meta.as_json(), 'parameters': 1, 'num_steps': 6}
  settings = {
    'model': {'n_ctx': 48},
    'optim': {'peak_lr': 1e-3, 'variant': 'paper'},
    'train': {'seed': 0},
    'data': {'path': 'books', 'batch_size': 5},
  }
  run_lib.start(str(workdir), 'pretrain', settings, facts)
  words.save(workdir / 'tokenizer')
  checkpoints = checkpoint.Checkpoints(str(workdir), keep=5, keep_best=False)
  tokens_BT = jnp.zeros((1, 8), jnp.int32)
  init = jax.jit(functools.partial(gpt.GPT(config).init, dropout_key=None))
  for step in STEPS:
    variables = init(jax.random.key(step), tokens_BT)
    params = {'gpt': jax.tree.map(lambda x: 6 * x, nn.unbox(variables))}
    params = {'gpt': params['gpt']['params']}
    state = step_lib.TrainState(jnp.int32(step), params, ())
    checkpoints.save(step, state, meta)
  checkpoints.close()
  return workdir


def write_tasks(path):
  """Writes every task in the layout of its archive; the texts are our own."""
  rng = np.random.default_rng(0)
  nouns = ['method', 'class', 'table', 'object', 'module', 'number', 'error']

  def text(count):
    return ' '.join(rng.choice(nouns, count))

  for split, count in (('train', 30), ('dev', 17)):
    lines = [
      f'x\t{int(rng.integers(2))}\t\t{text(2 + i % 9)}.\n' for i in range(count)
    ]
    winograd_files.write(path, f'CoLA/{split}.tsv', ''.join(lines))
  lines = [f'{text(1 + i % 7)} \t{i % 3 % 2}\n' for i in range(13)]
  head = 'sentence\tlabel\n'
  winograd_files.write(path, 'SST-2/dev.tsv', head + ''.join(lines))
  for level, length in (('middle', 20), ('high', 200)):
    for number in (1, 2):
      article = {
        'article': text(length),
        'questions': [f'what is {text(2)} ?', f'{text(2)} is _ .'],
        'options': [[text(1 + i) for i in range(4)] for _ in range(2)],
        'answers': ['B', 'D'],
      }
      for split in ('dev', 'test'):
        name = f'RACE/{split}/{level}/{number}.txt'
        winograd_files.write(path, name, json.dumps(article))
  (path / 'StoryCloze').mkdir()
  name = 'cloze_test_val__spring2016 - cloze_test_ALL_val.csv'
  with (path / 'StoryCloze' / name).open('w', newline='') as file:
    table = csv.writer(file)
    table.writerow(['InputStoryid', *rows.STORY, 'AnswerRightEnding'])
    for i in range(20):
      table.writerow([i, *(f'{text(3)}.' for _ in range(6)), 1 + i % 2])
  winograd_files.write(path, 'DPRD/test.c.txt', winograd_files.BLOCKS)
  schemas = [
    winograd_files.SCHEMA.format(rest=f'had {text(n)}.', letter='AB'[n % 2])
    for n in range(1, 6)
  ]
  xml = winograd_files.XML.format(''.join(schemas))
  winograd_files.write(path, 'WSC273/WSCollection.xml', xml)
  return path


def load(run, step):
  """Returns the parameters and the model of a checkpoint."""
  params, meta, _ = checkpoint.read(str(run), step)
  return params['gpt'], gpt.GPT(meta.model)


def questions_of(run, folder, names=()):
  """Reads the questions of some tasks, or of all."""
  encode = tokenization.load(run).encode
  return evaluation.read_questions(str(folder), names, encode, MODEL['n_ctx'])


def candidates_of(questions):
  """Returns the candidates of all questions, in order."""
  return [candidate for part in questions for candidate in part.candidates]


def batches_of(questions, batch_size=8, widths=likelihood.WIDTHS):
  """Lays the candidates out in batches."""
  return batches_lib.Batches(
    likelihood.lay_out(candidates_of(questions), MODEL['n_ctx']),
    batches_lib.BatchSettings(batch_size, lengths=widths),
  )


def scored(run, questions, batch_size=8, widths=likelihood.WIDTHS):
  """Returns the log-likelihood of each candidate, by the first checkpoint."""
  params, model = load(run, STEPS[0])
  batches = batches_of(questions, batch_size, widths)
  mesh = sharding.make_mesh(jax.devices(), data=-1, fsdp=1, tensor=1)
  with sharding.use(mesh):
    score = likelihood.score_fn(model, mesh)
    return score(params, batches, lambda *_: None)
