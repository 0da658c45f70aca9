r"""Trains and measures GPT-1 on one GPU, in slices that resume.

  python launch/gpu_hour.py --corpus=shards --tasks=glue --minutes=10
  python launch/gpu_hour.py --corpus=shards --tasks=glue --quick

Stages: the tests of the attention kernels on the card; the training step
beside torch; pretraining at full size (12 layers, width 768, 64 x 512 tokens)
for --pretrain_minutes; fine-tuning; samples; the report. Repeat the command
until it says that all is done: a slice ends after --minutes with exit code 75,
and the next one continues. Needs no network. --quick runs everything at `tiny`
size, to check it on a CPU.

OUTPUT/results holds the files to keep: a few megabytes.
"""

import dataclasses
import functools
import json
import pathlib
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Callable

import checkout
from absl import flags

from gpt1_jax import cli, interrupts

_CORPUS = flags.DEFINE_string(
  'corpus', None, 'Folder written by `prepare`.', required=True
)
_TASKS = flags.DEFINE_string(
  'tasks', None, 'Folder with the GLUE tasks to fine-tune on.', required=True
)
_OUTPUT = flags.DEFINE_string('output', 'runs/gpu_hour', 'Folder to write.')
_MINUTES = flags.DEFINE_float('minutes', 10.0, 'Length of this slice.')
_PRETRAIN_MINUTES = flags.DEFINE_float(
  'pretrain_minutes', 25.0, 'Time to pretrain, over all slices.'
)
_QUICK = flags.DEFINE_bool('quick', False, 'Use tiny sizes.')

TASKS = ('cola', 'rte', 'stsb', 'sst2')
PROMPTS = ('She said', 'The old house', 'It was a dark')
KEPT = ('config.json', 'metrics.jsonl', 'scores.json', 'samples.txt')


class OutOfTimeError(Exception):
  """Raised when the time of this slice is over; the next one continues."""


@dataclasses.dataclass
class Hour:
  """The stages; each writes OUTPUT/done/STAGE when it is complete.

  Attributes:
    output: folder for runs, logs and results.
    end: time.monotonic() at which the slice ends.
  """

  output: pathlib.Path
  end: float

  def run(self) -> None:
    """Runs the stages that are not done.

    Raises:
      OutOfTimeError: the slice is over.
    """
    (self.output / 'done').mkdir(parents=True, exist_ok=True)
    (self.output / 'results').mkdir(exist_ok=True)
    for name, stage in self.stages().items():
      if self.state(name) != 'not run':
        continue
      print(f'== {name}', flush=True)
      mark = self.output / 'done' / name
      mark.write_text('passed\n' if stage() else 'failed\n')
      print(f'   {self.state(name)}', flush=True)
    self.keep()

  def stages(self) -> dict[str, Callable[[], bool]]:
    """Returns the stages by name, in order; each returns True if it passed."""
    return {
      'tests': self.tests,
      'benchmark': self.benchmark,
      'pretrain': self.pretrain,
      'sample': self.sample,
      **{name: functools.partial(self.finetune, name) for name in TASKS},
      'report': self.report,
    }

  def tests(self) -> bool:
    """Tests the GPU kernels, in full float32: compiled, or interpreted."""
    chosen = 'masks and gpu' if _QUICK.value else 'gpu and not mesh'
    files = ('tests/attention_test.py', 'tests/attention_path_test.py')
    words = ['-m', 'pytest', '-rfE', *files, '-k', chosen]
    if _QUICK.value:
      return self.call('tests', *words)
    return self.call(
      'tests',
      *words,
      TEST_PLATFORMS='cuda,cpu',
      JAX_DEFAULT_MATMUL_PRECISION='highest',
    )

  def benchmark(self) -> bool:
    """Times the training step beside torch."""
    words = ['launch/benchmark.py', '--suite=gpu', '--json']
    return self.call('benchmark', *words, *['--quick'] * _QUICK.value)

  def pretrain(self) -> bool:
    """Pretrains; the number of updates follows from a short trial's rate."""
    size = 'tiny' if _QUICK.value else 'paper'
    kernel = (
      'flash'
      if self.state('tests') == 'passed' and not _QUICK.value
      else 'auto'
    )
    words = [
      *('-m', 'gpt1_jax.pretrain', f'--config=configs/pretrain.py:{size}'),
      f'--config.data.path={_CORPUS.value}',
      '--config.model.dtype=bfloat16',
      f'--config.model.attention={kernel}',
      '--config.train.num_epochs=0.0',
      '--config.train.log_every=10',
    ]
    updates = self.updates(words)
    return self.call(
      'pretrain',
      *words,
      f'--workdir={self.output / "pretrain"}',
      f'--config.train.num_steps={updates}',
      f'--config.train.checkpoint_every={max(1, updates // 10)}',
      f'--config.train.eval_every={max(1, updates // 5)}',
      f'--config.optim.warmup={max(1, min(2000, updates // 10))}.0',
      '--config.train.checkpoint_minutes=3.0',
    )

  def updates(self, words: list[str]) -> int:
    """Returns how many updates fit in --pretrain_minutes; measures once."""
    file = self.output / 'updates'
    if not file.exists():
      trial, steps = self.output / 'trial', 40
      self.call(
        'trial',
        *words,
        f'--workdir={trial}',
        f'--config.train.num_steps={steps}',
      )
      lines = (trial / 'metrics.jsonl').read_text().splitlines()
      rows = [
        row for row in map(json.loads, lines) if 'tokens_per_second' in row
      ]
      config = json.loads((trial / 'config.json').read_text())['config']
      tokens = config['data']['batch_size'] * config['model']['n_ctx']
      rate = rows[-1]['tokens_per_second'] / tokens
      seconds = 60 * (0.2 if _QUICK.value else _PRETRAIN_MINUTES.value)
      file.write_text(str(max(steps, int(rate * seconds))))
    return int(file.read_text())

  def finetune(self, task: str) -> bool:
    """Fine-tunes the pretrained model on a task."""
    return self.call(
      task,
      *('-m', 'gpt1_jax.finetune'),
      f'--config=configs/finetune.py:{task}{",tiny" * _QUICK.value}',
      f'--config.init_from={self.output / "pretrain"}',
      f'--config.data.path={_TASKS.value}',
      '--config.model.dtype=bfloat16',
      f'--workdir={self.output / task}',
    )

  def sample(self) -> bool:
    """Writes samples of the pretrained model."""
    return self.call(
      'sample',
      *('-m', 'gpt1_jax.generate', f'--workdir={self.output / "pretrain"}'),
      *(f'--prompt={prompt}' for prompt in PROMPTS),
      *('--max_tokens=120', '--num_samples=2', '--top_k=40'),
    )

  def report(self) -> bool:
    """Writes the report of all runs."""
    runs = [self.output / name for name in ('pretrain', *TASKS)]
    return self.call(
      'report',
      *('-m', 'gpt1_jax.report'),
      f'--runs={",".join(str(run) for run in runs if run.exists())}',
      f'--output={self.output / "results" / "report"}',
    )

  def keep(self) -> None:
    """Copies logs and the small files of each run to OUTPUT/results."""
    results = self.output / 'results'
    for log in self.output.glob('*.log'):
      shutil.copy(log, results)
    for run in ('pretrain', *TASKS):
      for name in KEPT:
        if (self.output / run / name).exists():
          (results / run).mkdir(exist_ok=True)
          shutil.copy(self.output / run / name, results / run / name)
    states = {name: self.state(name) for name in self.stages()}
    (results / 'stages.json').write_text(json.dumps(states, indent=2) + '\n')

  def state(self, stage: str) -> str:
    """Returns 'passed', 'failed' or 'not run'."""
    mark = self.output / 'done' / stage
    return mark.read_text().strip() if mark.exists() else 'not run'

  def call(self, name: str, *words: str, **environment: str) -> bool:
    """Runs Python until it ends or the slice does; appends to NAME.log.

    Args:
      name: of the log.
      *words: arguments of Python.
      **environment: variables to set.

    Returns:
      True if it succeeded.

    Raises:
      OutOfTimeError: the slice ended; the command was told to save and stop.
    """
    with (self.output / f'{name}.log').open('a', encoding='utf-8') as log:
      process = subprocess.Popen(
        [sys.executable, *words],
        cwd=checkout.ROOT,
        env=checkout.environment() | environment,
        stdout=log,
        stderr=subprocess.STDOUT,
      )
      try:
        code = process.wait(max(0.0, self.end - time.monotonic()))
      except subprocess.TimeoutExpired:
        process.send_signal(signal.SIGTERM)
        process.wait()
        raise OutOfTimeError from None
    return code == 0


def main() -> None:
  """Runs stages until all are done or the slice is over."""
  end = time.monotonic() + 60 * _MINUTES.value
  hour = Hour(pathlib.Path(_OUTPUT.value).absolute(), end)
  try:
    hour.run()
  except OutOfTimeError:
    hour.keep()
    print('the slice is over: run the same command again', flush=True)
    sys.exit(interrupts.EXIT_CODE)
  print(f'all done: {hour.output / "results"}')


if __name__ == '__main__':
  cli.run(main)
