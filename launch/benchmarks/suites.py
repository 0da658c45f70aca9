"""The suites that compute: train, generate, finetune, tpu."""

import os
import pathlib
import tempfile
import time
from typing import Any

from benchmarks import process, results, shapes
from configs import finetune as finetune_config
from gpt1_jax.corpus import sentencepiece_tokenizer
from gpt1_jax.errors import UserError
from gpt1_jax.tasks import (
  examples as examples_lib,
  features as features_lib,
  table,
)

RATE, PEAK = 'tokens_per_second', 'peak_bytes'
_OPENAI, _GPT2 = 'OpenAIGPTLMHeadModel', 'GPT2LMHeadModel'
_EAGER, _COMPILED = 'torch eager', 'torch.compile'
_NO_DROPOUT = {'embd_pdrop': 0.0, 'attn_pdrop': 0.0, 'resid_pdrop': 0.0}


def train(options: results.Options) -> list[results.Row]:
  """The CPU training step and its start."""
  out = []
  for dtype, goal in (('float32', 1.25), ('bfloat16', 1.0)):
    model = {'dtype': dtype}
    measured, _ = process.alternate(
      {
        'ours': ('train_jax', options.settings(model=model)),
        _EAGER: ('train_torch', options.settings(model=model, compile=False)),
        _COMPILED: ('train_torch', options.settings(model=model, compile=True)),
      },
      options,
    )
    ours = results.median(measured.get('ours'), RATE)
    peer, theirs = results.best(measured, (_EAGER, _COMPILED), RATE)
    out.append(
      results.Row(f'step, {dtype}', 'tokens/s', ours, peer, theirs, goal)
    )
    out.append(
      results.Row(
        f'peak memory, {dtype}',
        'B',
        results.median(measured.get('ours'), PEAK),
        peer,
        results.median(measured.get(peer), PEAK),
        0.7,
        at_most=True,
      )
    )
    out.append(_dropout(options, dtype))
  return [*out, _start(options)]


def _dropout(options: results.Options, dtype: str) -> results.Row:
  measured, _ = process.alternate(
    {
      'dropout': ('train_jax', options.settings(model={'dtype': dtype})),
      'none': (
        'train_jax',
        options.settings(model={'dtype': dtype, **_NO_DROPOUT}),
      ),
    },
    options,
  )
  share = results.share(
    results.median(measured.get('none'), 'seconds'),
    results.median(measured.get('dropout'), 'seconds'),
  )
  return results.Row(
    f"dropout's share of the step, {dtype}", '', share, '', None, 0.08, True
  )


def _start(options: results.Options) -> results.Row:
  """Cold and second start, in turn."""
  seconds: dict[str, list[dict[str, float]]] = {'cold': [], 'second': []}
  for number in range(options.repeats):
    with tempfile.TemporaryDirectory() as cache:
      for name, found in seconds.items():
        settings = options.settings(cache=cache, started=time.time())
        try:
          measured, _ = process.once('startup', settings)
        except UserError as error:
          options.say(f'{name} start: failed, {error}')
          options.failed.append(f'{name} start')
          break
        found.append(measured)
        options.say(f'{name} start: {number + 1} of {options.repeats}')
  return results.Row(
    'second start to the first step',
    's',
    results.median(seconds['second'], 'seconds'),
    'cold start',
    results.median(seconds['cold'], 'seconds'),
    1 / 3,
    at_most=True,
  )


def checkpoint(options: results.Options) -> list[results.Row]:
  """What an asynchronous checkpoint a minute costs the CPU step."""
  seconds = 1 if options.quick else 60
  measured, _ = process.alternate(
    {
      name: ('saving', options.settings(save=save, seconds=seconds))
      for name, save in (('saving', True), ('not saving', False))
    },
    options,
  )
  share = results.share(
    results.median(measured.get('saving'), RATE),
    results.median(measured.get('not saving'), RATE),
  )
  what = f'share of time of a checkpoint every {seconds} s'
  return [results.Row(what, '', share, '', None, 0.02, at_most=True)]


def generate(options: results.Options) -> list[results.Row]:
  """Greedy continuations, one prompt a row."""
  out = []
  for batch in (1, 8):
    settings = options.settings(
      batch_size=batch,
      prompt=8 if options.quick else 32,
      tokens=16 if options.quick else 128,
    )
    peers = {
      name: ('generate_torch', {**settings, 'class': name})
      for name in (_OPENAI, _GPT2)
    }
    measured, _ = process.alternate(
      {'ours': ('generate_jax', settings), **peers},
      options,
    )
    for name, goal in ((_OPENAI, 5.0), (_GPT2, 1.2)):
      out.append(
        results.Row(
          f'generation, batch {batch}',
          'tokens/s',
          results.median(measured.get('ours'), RATE),
          name,
          results.median(measured.get(name), RATE),
          goal,
        )
      )
  return out


def finetune(options: results.Options) -> list[results.Row]:
  """The fine-tuning step on the first batches of two tasks."""
  out, rate = [], 'examples_per_second'
  for name in ('sst2', 'rte'):
    with tempfile.TemporaryDirectory() as folder:
      path = os.path.join(folder, 'batches.npz')
      batches, classes = _task_batches(options, name)
      shapes.write_batches(path, batches)
      settings = options.settings(batches=path, task=name, classes=classes)
      measured, _ = process.alternate(
        {
          'ours': ('finetune_jax', settings),
          'transformers': ('finetune_torch', settings),
        },
        options,
      )
    widths = sorted({batch['tokens'].shape[2] for batch in batches})
    what = f'fine-tuning {name}, widths {", ".join(map(str, widths))}'
    ours = results.median(measured.get('ours'), rate)
    theirs = results.median(measured.get('transformers'), rate)
    out.append(
      results.Row(what, 'examples/s', ours, 'transformers', theirs, 1.5)
    )
  return out


def _task_batches(
  options: results.Options, name: str
) -> tuple[list[dict[str, Any]], int]:
  """The batches of the first updates, and the number of classes.

  The tokenizer is trained on the task itself, so that nothing else is needed.
  """
  config = finetune_config.get_config(name).to_dict()
  task = table.resolve(config['task'])
  path = pathlib.Path(options.data) / 'tasks' / 'glue'
  rows = examples_lib.read(task, str(path), 'train')
  texts = (text for row in rows for text in row.texts)
  merges = min(options.vocab_size - 300, 8000)
  tokenizer = sentencepiece_tokenizer.train(
    sentencepiece_tokenizer.count_words(texts), merges
  )
  if options.quick:
    rows = rows[:200]
  features = features_lib.build(
    task,
    rows,
    tokenizer,
    shapes.config(options.settings())['model']['n_ctx'],
    config['data']['truncation'],
  )
  # The specials are the last rows of the model's embedding.
  moved = features.tokens >= tokenizer.vocab_size
  features.tokens[moved] += options.vocab_size - tokenizer.vocab_size
  batches = features_lib.Batches(
    features,
    4 if options.quick else config['data']['batch_size'],
    0,
    config['data']['lengths'],
    train=True,
  )
  steps = range(min(batches.steps_per_epoch, 2 if options.quick else 8))
  return [batches.batch(step) for step in steps], task.num_outputs


def tpu(options: results.Options) -> list[results.Row]:
  """What the compiler says of the step on a slice; nothing is run."""
  model = {'dtype': 'bfloat16'}
  figures: dict[int, dict[str, Any]] = {}
  per_chip = (2,) if options.quick else (16, 32, 64, 128)
  for count in per_chip:
    settings = options.settings(
      model=model, per_chip=count, topology=options.topology
    )
    try:
      figures[count], _ = process.once('tpu', settings)
    except process.MissingError as missing:
      options.say(f'tpu: left out, {missing}')
      break
    except UserError as error:
      options.say(f'tpu: failed, {error}')
      options.failed.append(f'tpu, {count} sequences a chip')
      break
    options.say(f'tpu: {count} sequences a chip compiled')
    if not figures[count]['fits']:
      break
  first = figures.get(per_chip[0], {})
  fit = [count for count, found in figures.items() if found['fits']]

  def row(what, unit, ours, goal, at_most=True):
    return results.Row(what, unit, ours, '', None, goal, at_most)

  flops = first.get('flops')
  where = f'{options.topology}, {per_chip[0]} sequences a chip'
  return [
    row(f'{where}: temporaries', 'B', first.get('hbm_temp_bytes'), 3e9),
    row(
      f'{where}: FLOPs / model FLOPs',
      '',
      flops and flops / first['model_flops'],
      1.06,
    ),
    row(f'{where}: bytes moved', 'B', first.get('bytes_accessed'), 40e9),
    row(f'{where}: of them in HBM', 'B', first.get('hbm_bytes'), None),
    row(
      f'{options.topology}: sequences a chip that fit, of those tried',
      '',
      max(fit, default=None),
      64,
      at_most=False,
    ),
  ]
