r"""The whole road in a few minutes: what `make demo` runs.

  python launch/demo.py --output=runs/demo

Drives the real commands (prepare, pretrain, finetune, generate, report) on the
Python Language Reference that ships inside CPython, and says what each stage
does and why. Started again, it goes on where it stopped.
"""

import dataclasses
import pathlib
import shlex
import subprocess
import sys
import time
from collections.abc import Mapping

import checkout  # noqa: F401
import demo_task
from absl import flags
from rich import console, table

from gpt1_jax import cli, storage
from gpt1_jax.errors import UserError

_OUTPUT = flags.DEFINE_string(
  'output', 'runs/demo', 'Folder of everything the demo makes.'
)
_SEED = flags.DEFINE_integer('seed', 0, 'Of weights, dropout and data order.')

ROOT = pathlib.Path(__file__).resolve().parents[1]
MERGES = 1500
PROMPT = 'The statement'

# Four layers at this rate, warmed up in 50 updates, stay at the entropy of
# single words for 800 updates; two layers, warmed up in 100, leave it by 200.
PRETRAIN = {
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
# At 1e-3, or chosen after three epochs, training from scratch comes nearer: it
# learns which words recur, and no more from then on.
FINETUNE = {
  'optim.peak_lr': 6e-4,
  'train.num_epochs': 5,
  'data.batch_size': 32,
  'data.lengths': (64,),
}


def main(argv: list[str]) -> None:
  del argv
  Demo(pathlib.Path(_OUTPUT.value).absolute(), _SEED.value).run()


@dataclasses.dataclass
class Demo:
  """The stages, in order; each one's seconds are kept for the table."""

  output: pathlib.Path
  seed: int

  def __post_init__(self):
    self.console = console.Console(highlight=False)
    self.seconds: dict[str, float] = {}

  def run(self) -> None:
    """All stages, the table, what to try next."""
    self.prepare()
    self.pretrain()
    self.make_task()
    self.finetune('pretrained')
    self.finetune('scratch')
    self.generate()
    self.report()
    self.close()

  def path(self, name: str) -> str:
    return str(self.output / name)

  def prepare(self) -> None:
    self.say(
      'prepare',
      'The corpus is the Python Language Reference that every Python carries: '
      f'79 topics, about 95,000 words. Cleaned, {len(demo_task.HELD_OUT)} '
      f'topics held out, a tokenizer of {MERGES:,} merges learned, text '
      'written as token shards.',
    )
    self.call(
      'prepare',
      'prepare',
      f'--input={demo_task.CORPUS}',
      f'--output={self.path("shards")}',
      f'--merges={MERGES}',
      '--validation_fraction=0',
      *(f'--hold_out={demo_task.CORPUS}#{name}' for name in demo_task.HELD_OUT),
    )

  def pretrain(self) -> None:
    self.say(
      'pretrain',
      'A small GPT learns to predict the next token. No labels: the text alone '
      'teaches it which words go together. The loss should fall from about '
      'ln(vocabulary) = 7.4.',
    )
    settings = {
      **PRETRAIN,
      'data.path': self.path('shards'),
      'data.seed': self.seed,
      'train.seed': self.seed,
    }
    self.call(
      'pretrain',
      'pretrain',
      '--config=configs/pretrain.py:tiny',
      f'--workdir={self.path("pretrain")}',
      *overrides(settings),
    )

  def make_task(self) -> None:
    train, dev = demo_task.make_task(*demo_task.topics(self.output / 'shards'))
    self.say(
      'make a task',
      'From the topics held out: given a passage, which of two is its '
      'continuation? The other comes from elsewhere in the reference. '
      f'{len(train):,} examples to train on, {len(dev):,} of other topics to '
      'score. Chance is 50%.',
    )
    example = dev[0]
    self.console.print(f'  passage   {example["text"]}', style='dim')
    for number, choice in enumerate(example['choices']):
      mark = '  <- right' if number == example['label'] else ''
      self.console.print(f'  choice {number}  {choice}{mark}', style='dim')
    demo_task.write_task(self.output / 'task', train, dev)

  def finetune(self, init: str) -> None:
    if init == 'pretrained':
      self.say(
        'fine-tune, from the pretrained weights',
        'The same network, one linear layer on top, learns the task.',
      )
      source = {'init_from': self.path('pretrain')}
    else:
      self.say(
        'fine-tune, from scratch',
        'The same again from random weights: what pretraining was worth.',
      )
      source = {'init_from': 'none', 'like': self.path('pretrain')}
    settings = {
      **source,
      **FINETUNE,
      'data.path': self.path('task'),
      'data.seed': self.seed,
      'train.seed': self.seed,
    }
    self.call(
      f'fine-tune, {init}',
      'finetune',
      '--config=configs/demo_task.py',
      f'--workdir={self.path(init)}',
      *overrides(settings),
    )

  def generate(self) -> None:
    self.say('sample', 'What the pretrained network writes.')
    options = ('--num_tokens=60', '--num_samples=2', '--top_k=40')
    text = self.call(
      'sample',
      'generate',
      f'--workdir={self.path("pretrain")}',
      f'--prompt={PROMPT}',
      *options,
      capture=True,
    )
    samples = self.output / 'pretrain' / 'samples.txt'
    samples.write_text(text, encoding='utf-8')
    self.console.print(text, style='dim', markup=False)

  def report(self) -> None:
    runs = ','.join(map(self.path, ('pretrain', 'pretrained', 'scratch')))
    self.say('report', 'One page with the curves and the scores.')
    self.call('report', 'report', f'--runs={runs}', f'--output={self.output}')

  def close(self) -> None:
    """The table, and what to try next."""
    scores = {
      name: storage.read_json(self.output / name / 'scores.json')
      for name in ('pretrain', 'pretrained', 'scratch')
    }
    rows = table.Table(title='The demo, in numbers')
    rows.add_column('what')
    rows.add_column('figure', justify='right')
    perplexity = scores['pretrain']['eval_perplexity']
    rows.add_row('validation perplexity', f'{perplexity:.1f}')
    rows.add_row('choice task, chance', '50.0%')
    for name in ('scratch', 'pretrained'):
      rows.add_row(f'choice task, {name}', f'{scores[name]["score"]:.1%}')
    for stage, seconds in self.seconds.items():
      rows.add_row(f'time: {stage}', f'{seconds:.0f} s')
    self.console.print(rows)
    self.console.print(
      f'The page: {self.output}/report.html\nNext, on your own books:\n'
      '  .venv/bin/python -m gpt1_jax.prepare --input=BOOKS --output=data/books'
      '\n  .venv/bin/python -m gpt1_jax.pretrain '
      '--config=configs/pretrain.py:mini \\\n      --workdir=runs/mini '
      '--config.data.path=data/books',
      markup=False,
    )

  def say(self, stage: str, words: str) -> None:
    self.console.rule(stage)
    self.console.print(words)

  def call(
    self, stage: str, verb: str, *args: str, capture: bool = False
  ) -> str:
    """Runs a command as a user would; its failure is ours."""
    words = [sys.executable, '-m', f'gpt1_jax.{verb}', *args]
    shown = shlex.join(['python', *words[1:]])
    self.console.print(f'$ {shown}', style='dim', markup=False)
    started = time.perf_counter()
    done = subprocess.run(
      words,
      check=False,
      cwd=ROOT,
      text=True,
      stdout=subprocess.PIPE if capture else None,
    )
    if done.returncode:
      raise UserError(f'{stage}: the command above failed')
    self.seconds[stage] = time.perf_counter() - started
    return done.stdout or ''


def overrides(settings: Mapping[str, object]) -> list[str]:
  """--config.KEY=VALUE of each setting."""
  return [f'--config.{key}={value}' for key, value in settings.items()]


if __name__ == '__main__':
  cli.run(main)
