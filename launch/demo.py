r"""Runs every command once, in a few minutes: `make demo`.

  python launch/demo.py --output=runs/demo

Prepares a corpus, pretrains, fine-tunes with and without pretraining, generates
text and writes a report. Uses the real commands and the Python Language
Reference that ships with CPython. The same command resumes an interrupted demo.
"""

import dataclasses
import pathlib
import shlex
import subprocess
import sys
import time
from collections.abc import Mapping

import checkout
import demo_task
from absl import flags
from rich import console, table

from gpt1_jax import cli, storage
from gpt1_jax.errors import UserError

_OUTPUT = flags.DEFINE_string('output', 'runs/demo', 'Folder to write.')
_SEED = flags.DEFINE_integer(
  'seed', 0, 'Seeds the weights, dropout and the data order.'
)

MERGES = 1500
PROMPT = 'The statement'
Settings = Mapping[str, object]

# At this learning rate, two layers with a warm-up of 100 updates fall below the
# unigram entropy by update 200. Four layers with a warm-up of 50 had not by
# update 800.
PRETRAIN: Settings = {
  'model.n_layer': 2,
  'model.n_head': 4,
  'model.n_embd': 128,
  'model.n_ctx': 64,
  'train.num_steps': 1200,
  'train.log_every': 20,
  'train.eval_every': 200,
  'train.checkpoint_every': 400,
  'optim.peak_lr': 2e-3,
  'optim.warmup': 100.0,
  'data.batch_size': 16,
}
# With a learning rate of 1e-3, or after only 3 epochs, the gap to training from
# scratch is smaller.
FINETUNE: Settings = {
  'optim.peak_lr': 6e-4,
  'train.num_epochs': 5,
  'data.batch_size': 32,
  'data.lengths': (64,),
}


def main(argv: list[str]) -> None:
  """Runs the demo."""
  del argv
  Demo(pathlib.Path(_OUTPUT.value).absolute(), _SEED.value).run()


@dataclasses.dataclass
class Demo:
  """The stages of the demo.

  Attributes:
    output: folder for everything that the demo writes.
    seed: seeds weights, dropout and data order.
    screen: console for progress.
    seconds: duration of each stage, for the table.
  """

  output: pathlib.Path
  seed: int
  screen: console.Console = dataclasses.field(
    default_factory=lambda: console.Console(highlight=False)
  )
  seconds: dict[str, float] = dataclasses.field(default_factory=dict)

  def run(self) -> None:
    """Runs all stages and prints the results."""
    self.output.mkdir(parents=True, exist_ok=True)
    self.prepare()
    self.pretrain()
    self.make_task()
    self.finetune('pretrained', init_from=self.path('pretrain'))
    self.finetune('scratch', init_from='none', like=self.path('pretrain'))
    self.generate()
    self.report()
    self.print_results()

  def path(self, name: str) -> str:
    """Returns the path of a file or folder in the output."""
    return str(self.output / name)

  def prepare(self) -> None:
    """Writes token shards of the language reference."""
    corpus = demo_task.CORPUS
    self.call(
      'prepare',
      f'Clean the Python Language Reference (79 topics, about 95,000 words), '
      f'hold out {len(demo_task.HELD_OUT)} topics, learn {MERGES:,} BPE merges '
      'and write token shards.',
      *('prepare', f'--input={corpus}', f'--output={self.path("shards")}'),
      f'--merges={MERGES}',
      '--validation_fraction=0',
      *(f'--hold_out={corpus}#{name}' for name in demo_task.HELD_OUT),
    )

  def pretrain(self) -> None:
    """Pretrains on the topics that are not held out."""
    self.call(
      'pretrain',
      'A small GPT learns to predict the next token, without labels. Its loss '
      'starts at about ln(vocabulary) = 7.4.',
      *('pretrain', '--config=configs/pretrain.py:tiny'),
      f'--workdir={self.path("pretrain")}',
      *self.overrides({**PRETRAIN, 'data.path': self.path('shards')}),
    )

  def make_task(self) -> None:
    """Writes the choice task and prints one of its examples."""
    train, dev = demo_task.make_task(*demo_task.topics(self.output / 'shards'))
    demo_task.write_task(self.output / 'task', train, dev)
    self.screen.rule('make a task')
    self.screen.print(
      'Which of two texts continues a passage? All come from held-out topics, '
      f'the wrong one from another topic. {len(train):,} training examples, '
      f'{len(dev):,} examples from other topics for scoring. Chance is 50%.'
    )
    example = dev[0]
    self.screen.print(f'  passage   {example["text"]}', style='dim')
    for number, choice in enumerate(example['choices']):
      mark = '  <- correct' if number == example['label'] else ''
      self.screen.print(f'  choice {number}  {choice}{mark}', style='dim')

  def finetune(self, name: str, **source: str) -> None:
    """Fine-tunes on the task, with or without pretrained weights."""
    self.call(
      f'fine-tune, {name}',
      'The pretrained network, with one linear layer on top, learns the task.'
      if name == 'pretrained'
      else 'Training from random weights shows how much pretraining helps.',
      *('finetune', '--config=configs/demo_task.py'),
      f'--workdir={self.path(name)}',
      *self.overrides({**source, **FINETUNE, 'data.path': self.path('task')}),
    )

  def generate(self) -> None:
    """Prints text generated by the pretrained network."""
    text = self.call(
      'sample',
      f'The pretrained network continues "{PROMPT}".',
      *('generate', f'--workdir={self.path("pretrain")}'),
      f'--prompt={PROMPT}',
      *('--num_tokens=60', '--num_samples=2', '--top_k=40'),
    )
    storage.write_text(storage.path(self.path('pretrain/samples.txt')), text)
    self.screen.print(text, style='dim', markup=False)

  def report(self) -> None:
    """Writes the report page."""
    runs = ','.join(map(self.path, ('pretrain', 'pretrained', 'scratch')))
    self.call(
      'report',
      'Write one page with all curves and scores.',
      *('report', f'--runs={runs}', f'--output={self.output}'),
    )

  def print_results(self) -> None:
    """Prints scores, times and suggested next commands."""
    scores = {
      name: storage.read_json(storage.path(self.path(f'{name}/scores.json')))
      for name in ('pretrain', 'pretrained', 'scratch')
    }
    rows = table.Table(title='Results')
    rows.add_column('measurement')
    rows.add_column('value', justify='right')
    perplexity = scores['pretrain']['eval_perplexity']
    rows.add_row('validation perplexity', f'{perplexity:.1f}')
    rows.add_row('choice task, chance', '50.0%')
    for name in ('scratch', 'pretrained'):
      rows.add_row(f'choice task, {name}', f'{scores[name]["score"]:.1%}')
    for stage, seconds in self.seconds.items():
      rows.add_row(f'time: {stage}', f'{seconds:.0f} s')
    self.screen.print(rows)
    self.screen.print(
      f'Report: {self.output}/report.html\nNext, try your own books:\n'
      '  .venv/bin/python -m gpt1_jax.prepare --input=BOOKS --output=data/books'
      '\n  .venv/bin/python -m gpt1_jax.pretrain '
      '--config=configs/pretrain.py:mini \\\n      --workdir=runs/mini '
      '--config.data.path=data/books',
      markup=False,
    )

  def overrides(self, settings: Settings) -> list[str]:
    """Returns --config.KEY=VALUE flags for the settings and the seeds."""
    seeds = {'data.seed': self.seed, 'train.seed': self.seed}
    return [f'--config.{k}={v}' for k, v in {**settings, **seeds}.items()]

  def call(self, stage: str, about: str, verb: str, *args: str) -> str:
    """Runs a command; its output goes to a log file.

    Args:
      stage: heading and name of the log file.
      about: sentence to print before the command runs.
      verb: name of the command, such as 'prepare'.
      *args: its arguments.

    Returns:
      The command's standard output.

    Raises:
      UserError: the command failed.
    """
    words = ['python', '-m', f'gpt1_jax.{verb}', *args]
    log = self.output / f'{stage.replace(", ", "-")}.log'
    self.screen.rule(stage)
    self.screen.print(about)
    start = time.perf_counter()
    with log.open('w', encoding='utf-8') as file:
      print(f'$ {shlex.join(words)}', file=file, flush=True)
      with self.screen.status(f'{verb}: see {log}'):
        done = subprocess.run(
          [sys.executable, *words[1:]],
          cwd=checkout.ROOT,
          env=checkout.environment(),
          text=True,
          stdout=subprocess.PIPE,
          stderr=file,
        )
      file.write(done.stdout)
    if done.returncode:
      lines = log.read_text('utf-8').strip().splitlines()
      raise UserError(f'{stage} failed, see {log}: {lines[-1]}')
    seconds = self.seconds[stage] = time.perf_counter() - start
    self.screen.print(f'{seconds:.0f} s, log: {log}', style='dim')
    return done.stdout


if __name__ == '__main__':
  cli.run(main)
