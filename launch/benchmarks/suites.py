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
  local_engine,
  pipeline,
  sentencepiece_tokenizer,
)
from gpt1_jax.model import models
from gpt1_jax.tasks import batches, examples, features, table
from gpt1_jax.train import pretraining, telemetry

_OPENAI, _GPT2 = 'OpenAIGPTLMHeadModel', 'GPT2LMHeadModel'
_PYTHON_REFERENCE = 'builtin:python-reference'
Candidates = Mapping[str, tuple[str, Case]]


@dataclasses.dataclass
class Options:
  """The flags of launch/benchmark.py.

  Attributes:
    steps: updates per repetition.
    repeats: repetitions per candidate.
    quick: True uses tiny sizes, to check that everything runs.
    data: folder with real data, or None.
    say: receives progress lines.
    versions: library versions, collected from the candidates.
    failed: candidates that failed, collected.
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
  """A table row: medians over repetitions, or None if not measured.

  Attributes:
    name: name of the measurement.
    unit: unit of `ours` and `theirs`.
    ours: this project's median.
    reference: name of the candidate to compare with.
    theirs: that candidate's median.
    ratio: ours / theirs.
  """

  name: str
  unit: str
  ours: float | None
  reference: str
  theirs: float | None

  @property
  def ratio(self) -> float | None:
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
    measured = options.measure(
      {
        'ours': ('ours.train', case),
        'torch eager': ('theirs.train', case),
        'torch.compile': ('theirs.train', compiled),
      }
    )
    for peer in ('torch eager', 'torch.compile'):
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
    case = dataclasses.replace(
      options.case,
      batch_size=batch,
      prompt=8 if options.quick else 32,
      tokens=16 if options.quick else 128,
    )
    peers: dict[str, tuple[str, Case]] = {
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
      measured = options.measure(
        {
          'ours': ('ours.finetune', case),
          'transformers': ('theirs.finetune', case),
        }
      )
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
  tokenizer = sentencepiece_tokenizer.train(
    sentencepiece_tokenizer.count_words(t for row in found for t in row.texts),
    min(case.vocab_size - 300, 8000),
  )
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
  batch_settings = batches.BatchSettings(
    4 if options.quick else settings.data.batch_size,
    lengths=settings.data.lengths,
    train=True,
  )
  laid_out_batches = batches.Batches(laid_out, batch_settings)
  steps = range(
    min(laid_out_batches.steps_per_epoch, 2 if options.quick else 8)
  )
  return [
    cast(case_lib.Batch, laid_out_batches.batch(step)) for step in steps
  ], task.num_outputs


def prepare(options: Options) -> list[Row]:
  """Compares the encoding stage of `prepare` with SentencePiece alone."""
  specs = [_PYTHON_REFERENCE]
  if options.data and not options.quick:
    specs = [os.path.join(options.data, 'books')]
  cores = len(os.sched_getaffinity(0))
  with tempfile.TemporaryDirectory() as folder:
    spool = pathlib.Path(folder) / 'spool'
    with local_engine.Workers(cores) as workers:
      found = documents.read_all(specs, 'text')
      rule = pipeline.SplitRule(0.05)
      local_engine.clean(workers, found, spool, rule, lambda *_: None)
      words = local_engine.count_words(workers, spool, 1.0, lambda *_: None)
    merges = 500 if options.quick else 8000
    sentencepiece_tokenizer.train(words, merges).save(folder)
    case = dataclasses.replace(
      options.case, spool=str(spool), tokenizer=folder, cores=cores
    )
    measured = options.measure(
      {
        'ours': ('ours.encode', case),
        'SentencePiece alone': ('theirs.encode', case),
      }
    )
  name = f'encoding, {cores} processes'
  return [compare(name, 'B/s', measured, 'SentencePiece alone')]
