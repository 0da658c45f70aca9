"""Runs the comparisons of launch/benchmark.py; each returns table rows."""

import dataclasses
import os
import pathlib
import statistics
import tempfile
from collections.abc import Callable, Mapping
from typing import cast

from benchmarks import case as case_lib, process
from benchmarks.case import Case
from gpt1_jax.corpus import (
  documents,
  inputs,
  local_engine,
  pipeline,
  sentencepiece_tokenizer as bpe,
  workers,
)
from gpt1_jax.model import models
from gpt1_jax.tasks import batches, examples, features, table
from gpt1_jax.train import pretraining, telemetry

_OPENAI, _GPT2 = 'OpenAIGPTLMHeadModel', 'GPT2LMHeadModel'
_PYTHON_REFERENCE = 'builtin:python-reference'
Candidates = Mapping[str, tuple[str, Case]]


@dataclasses.dataclass
class Options:
  """The flags of launch/benchmark.py, and results that candidates report.

  Attributes:
    steps, repeats, quick, data: see the flags.
    say: receives progress lines.
    versions, failed: libraries of the candidates; candidates that failed.
  """

  steps: int
  repeats: int
  quick: bool
  data: str | None
  say: Callable[[str], None]
  versions: dict[str, str] = dataclasses.field(default_factory=dict)
  failed: list[str] = dataclasses.field(default_factory=list)

  @property
  def case(self) -> Case:
    """The paper's shape, or a tiny one."""
    if self.quick:
      return Case('tiny', 1000, steps=self.steps)
    return Case('paper', 40_478, steps=self.steps)

  def measure(self, candidates: Candidates) -> dict[str, list[process.Result]]:
    """Returns the results of the candidates that are installed and succeed."""
    results = process.alternate(candidates, self.repeats, self.say)
    self.versions |= results.versions
    self.failed += results.failed
    return results.measured


@dataclasses.dataclass(frozen=True)
class Row:
  """A table row.

  Attributes:
    name, unit: the measurement and its unit.
    ours: this project's median over repetitions; None if not measured.
    reference: name of the candidate to compare with.
    theirs: that candidate's median; None if not measured.
  """

  name: str
  unit: str
  ours: float | None
  reference: str
  theirs: float | None

  @property
  def ratio(self) -> float | None:
    """Ours / theirs."""
    return self.ours / self.theirs if self.ours and self.theirs else None


def compare(
  name: str,
  unit: str,
  measured: Mapping[str, list[process.Result]],
  reference: str,
  key: str = 'rate',
) -> Row:
  """Compares the medians of a result between 'ours' and another candidate."""

  def median(candidate: str) -> float | None:
    values = [result[key] for result in measured.get(candidate, ())]
    return statistics.median(values) if values else None

  return Row(name, unit, median('ours'), reference, median(reference))


def train(options: Options) -> list[Row]:
  """Compares speed and peak memory of the training step on a CPU."""
  rows = []
  for dtype in ('float32', 'bfloat16'):
    case = dataclasses.replace(options.case, dtype=dtype)
    compiled = dataclasses.replace(case, compile=True)
    peers = {
      'torch eager': ('theirs.train', case),
      'torch.compile': ('theirs.train', compiled),
    }
    measured = options.measure({'ours': ('ours.train', case), **peers})
    for peer in peers:
      rows += [
        compare(f'step, {dtype}', 'tokens/s', measured, peer),
        compare(f'peak memory, {dtype}', 'B', measured, peer, 'peak_bytes'),
      ]
  return rows


def gpu(options: Options) -> list[Row]:
  """Compares the training step on a GPU: bfloat16, batch 64, dropout 0.1."""
  batch = 4 if options.quick else 64
  case = dataclasses.replace(
    options.case, dtype='bfloat16', batch_size=batch, network=_GPT2
  )
  flash = dataclasses.replace(case, attention='flash')
  measured = options.measure(
    {
      'ours': ('ours.train', flash),
      'ours, plain attention': ('ours.train', case),
      'torch.compile': (
        'theirs.train',
        dataclasses.replace(case, compile=True),
      ),
    }
  )
  rows = [
    compare('step', 'tokens/s', measured, name)
    for name in ('torch.compile', 'ours, plain attention')
  ]
  # The share of the chip's peak that the model's own operations reach.
  rate, peak = rows[0].ours, telemetry.peak_flops()
  if rate and peak:
    config = pretraining.model_config(case.pretrain_config(), case.vocab_size)
    flops = rate * models.flops_per_token(config)
    rows.append(
      Row('model operations', 'FLOP/s', flops, 'peak of the chip', peak)
    )
  return rows


def generate(options: Options) -> list[Row]:
  """Compares greedy generation, with one prompt per row."""
  rows = []
  for batch in (1, 8):
    prompt, tokens = (8, 16) if options.quick else (32, 128)
    case = dataclasses.replace(
      options.case, batch_size=batch, prompt=prompt, tokens=tokens
    )
    peers = {
      name: ('theirs.generate', dataclasses.replace(case, network=name))
      for name in (_OPENAI, _GPT2)
    }
    measured = options.measure({'ours': ('ours.generate', case), **peers})
    rows += [
      compare(f'generation, batch {batch}', 'tokens/s', measured, peer)
      for peer in peers
    ]
  return rows


def finetune(options: Options) -> list[Row]:
  """Compares the fine-tuning step on the first batches of two tasks."""
  rows = []
  for task in ('sst2', 'rte'):
    with tempfile.TemporaryDirectory() as folder:
      path = pathlib.Path(folder) / 'batches.npz'
      batches, classes = _task_batches(options, task)
      case_lib.write_batches(path, batches)
      case = dataclasses.replace(
        options.case, task=task, classes=classes, batches=str(path)
      )
      peers = {'transformers': ('theirs.finetune', case)}
      measured = options.measure({'ours': ('ours.finetune', case), **peers})
    widths = sorted({batch['tokens'].shape[2] for batch in batches})
    name = f'fine-tuning {task}, widths {", ".join(map(str, widths))}'
    rows.append(compare(name, 'examples/s', measured, 'transformers'))
  return rows


def _task_batches(
  options: Options, name: str
) -> tuple[list[case_lib.Batch], int]:
  """Returns the first batches of a task and its number of classes.

  Trains the tokenizer on the task itself, so that no run is needed.
  """
  settings = case_lib.finetune_config(name)
  task = table.resolve(settings.task)
  path = pathlib.Path(options.data or '') / 'tasks' / 'glue'
  found = examples.read(task, str(path), 'train')
  case = options.case
  words = bpe.count_words(text for row in found for text in row.texts)
  tokenizer = bpe.train(words, 20 if options.quick else 8000)
  laid_out = features.build(
    task,
    found[:200] if options.quick else found,
    tokenizer,
    case.pretrain_config().model.n_ctx,
    settings.data.truncation,
  )
  # Moves special tokens to the last rows of the model's embedding.
  moved = laid_out.tokens >= tokenizer.vocab_size
  laid_out.tokens[moved] += case.vocab_size - tokenizer.vocab_size
  size, count = (4, 2) if options.quick else (settings.data.batch_size, 8)
  made = batches.Batches(
    laid_out,
    batches.BatchSettings(size, lengths=settings.data.lengths, train=True),
  )
  steps = range(min(made.steps_per_epoch, count))
  chosen = [cast(case_lib.Batch, made.batch(step)) for step in steps]
  return chosen, task.num_outputs


def prepare(options: Options) -> list[Row]:
  """Compares the encoding stage of `prepare` with SentencePiece alone."""
  specs = [_PYTHON_REFERENCE]
  if options.data and not options.quick:
    specs = [os.path.join(options.data, 'books')]
  cores = len(os.sched_getaffinity(0))
  with tempfile.TemporaryDirectory() as folder:
    spool = pathlib.Path(folder) / 'spool'
    settings = pipeline.PrepareSettings(
      inputs=tuple(specs),
      text_field='text',
      merges=None,
      tokenizer=None,
      tokenizer_sample_mb=1000,
      validation_fraction=0.05,
      hold_out=(),
      shard_tokens=10**8,
    )
    with workers.Workers(cores) as pool:
      found, rule = pipeline.plan(inputs.find(specs), settings)
      texts = documents.read_all(found, settings.text_field)
      local_engine.clean(pool, texts, spool, rule, settings, lambda *_: None)
      words = local_engine.count_words(pool, spool, 1.0, lambda *_: None)
    merges = 500 if options.quick else 8000
    bpe.train(words, merges).save(folder)
    case = dataclasses.replace(
      options.case, spool=str(spool), tokenizer=folder, cores=cores
    )
    peer = 'SentencePiece alone'
    peers = {'ours': ('ours.encode', case), peer: ('theirs.encode', case)}
    measured = options.measure(peers)
  return [compare(f'encoding, {cores} processes', 'B/s', measured, peer)]
