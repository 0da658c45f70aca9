r"""The whole road in a few minutes: what `make demo` runs.

  python launch/demo.py --output=runs/demo

Drives the real commands (prepare, pretrain, finetune, generate, report) on the
Python Language Reference that ships inside CPython, and says what each stage
does and why. Started again, it goes on where it stopped.
"""

import dataclasses
import json
import pathlib
import random
import shlex
import subprocess
import sys
import time
from collections.abc import Collection, Mapping, Sequence

from absl import flags
from rich import console, table

from gpt1_jax import command
from gpt1_jax.data import corpus, shards, text as text_lib
from gpt1_jax.errors import UserError
from gpt1_jax.train import run

_OUTPUT = flags.DEFINE_string(
  'output', 'runs/demo', 'Folder of everything the demo makes.'
)
_SEED = flags.DEFINE_integer('seed', 0, 'Of weights, dropout and data order.')

ROOT = pathlib.Path(__file__).resolve().parents[1]
CORPUS = 'builtin:python-reference'
MERGES = 1500
VALIDATION_FRACTION = 0.3
# Lengths in words (white-space separated, after cleaning).
CONTEXT_WORDS = 24
ANSWER_WORDS = 12
STRIDE = 6  # between the starts of two examples
WRONG_ANSWERS = 2  # examples made from one context, each with another
DEV_SHARE = 1 / 3
PROMPT = 'The statement'

# Two layers and a hundred updates of warm-up: deeper, or warmed up in fifty,
# the network stays at the entropy of single words for hundreds of updates.
PRETRAIN = {
  'model.n_layer': 2,
  'model.n_head': 4,
  'model.n_embd': 128,
  'model.n_ctx': 64,
  'train.num_steps': 600,
  'train.log_every': 20,
  'train.eval_every': 100,
  'train.checkpoint_every': 200,
  'optim.peak_lr': 2e-3,
  'optim.warmup': 100.0,
  'data.batch_size': 16,
}
FINETUNE = {
  'optim.peak_lr': 1e-3,
  'train.num_epochs': 3,
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
      '79 topics, about 95,000 words. Cleaned, split by topic '
      f'({VALIDATION_FRACTION:.0%} held out, chosen by their hash), a '
      f'tokenizer of {MERGES:,} merges learned, text written as token shards.',
    )
    self.call(
      'prepare',
      'prepare',
      f'--input={CORPUS}',
      f'--output={self.path("shards")}',
      f'--merges={MERGES}',
      f'--validation_fraction={VALIDATION_FRACTION}',
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
    train, dev = make_task(*topics(self.output / 'shards'))
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
    write_task(self.output / 'task', train, dev)

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
      name: run.read_json(self.output / name / 'scores.json')
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


def topics(
  path: pathlib.Path,
) -> tuple[dict[str, str], set[str]]:
  """Held-out topics (source -> cleaned text), and the lines of the others.

  Topics quote one another at length; the lines tell what pretraining saw.
  """
  split = {row['source']: row['split'] for row in shards.read_documents(path)}
  held_out: dict[str, str] = {}
  seen: set[str] = set()
  for document in corpus.documents([CORPUS], 'text'):
    text = text_lib.clean(text_lib.paragraphs(document.text()))
    if split[document.source] == 'validation':
      held_out[document.source] = text
    else:
      seen.update(line.strip() for line in text.split('\n'))
  return held_out, seen


def make_task(
  held_out: Mapping[str, str], seen: Collection[str]
) -> tuple[list[Mapping], list[Mapping]]:
  """Rows (text, choices, label) of train and dev, divided by topic.

  A passage of CONTEXT_WORDS, its true next ANSWER_WORDS, and as many words
  from another topic of the same part. Lines in `seen`, lines that stand in
  several topics and lines that are not prose are left out.

  Args:
    held_out: topic -> cleaned text.
    seen: lines of other texts.
  """
  passages = _passages(held_out, seen)
  parts: dict[str, list[str]] = {'train': [], 'dev': []}
  sizes = {'train': 0, 'dev': 0}
  # The largest first, each to the part that is short of its share.
  for source in sorted(passages, key=lambda s: (-len(passages[s]), s)):
    short = sizes['dev'] * (1 - DEV_SHARE) < sizes['train'] * DEV_SHARE
    part = 'dev' if short else 'train'
    parts[part].append(source)
    sizes[part] += len(passages[source])
  for part, sources in parts.items():
    if len(sources) < 2:
      raise UserError(f'too few topics are held out to make a {part} set')
  rng = random.Random(0)
  train, dev = (
    _rows({source: passages[source] for source in sources}, rng)
    for sources in parts.values()
  )
  return train, dev


def _passages(
  held_out: Mapping[str, str], seen: Collection[str]
) -> dict[str, list[tuple[str, str]]]:
  """Topic -> (context, answer) pairs, from runs of unseen prose."""
  seen = set(seen)
  out = {}
  # The shortest first: what a long topic quotes belongs to the short one.
  for source in sorted(held_out, key=lambda s: (len(held_out[s]), s)):
    runs: list[list[str]] = [[]]
    for line in map(str.strip, held_out[source].split('\n')):
      if not _is_prose(line):
        continue
      if line in seen:
        runs.append([])
        continue
      seen.add(line)
      runs[-1] += line.split()
    length = CONTEXT_WORDS + ANSWER_WORDS
    pairs = [
      (
        ' '.join(words[start : start + CONTEXT_WORDS]),
        ' '.join(words[start + CONTEXT_WORDS : start + length]),
      )
      for words in runs
      for start in range(0, len(words) - length + 1, STRIDE)
    ]
    if pairs:
      out[source] = pairs
  return out


def _is_prose(line: str) -> bool:
  words = line.split()
  letters = sum(word.isalpha() for word in words)
  return len(words) >= 6 and letters >= 0.55 * len(words)


def _rows(
  passages: Mapping[str, Sequence[tuple[str, str]]], rng: random.Random
) -> list[Mapping]:
  """Examples of one part of the topics, in random order."""
  rows = []
  for source, pairs in passages.items():
    others = [other for other in passages if other != source]
    for context, answer in pairs:
      for _ in range(WRONG_ANSWERS):
        _, wrong = rng.choice(passages[rng.choice(others)])
        label = rng.randrange(2)
        choices = [answer, wrong] if label == 0 else [wrong, answer]
        rows.append({'text': context, 'choices': choices, 'label': label})
  rng.shuffle(rows)
  return rows


def write_task(path: pathlib.Path, train: list, dev: list) -> None:
  """train.jsonl and dev.jsonl."""
  path.mkdir(parents=True, exist_ok=True)
  for name, rows in (('train', train), ('dev', dev)):
    lines = ''.join(json.dumps(row) + '\n' for row in rows)
    (path / f'{name}.jsonl').write_text(lines, encoding='utf-8')


def overrides(settings: Mapping[str, object]) -> list[str]:
  """--config.KEY=VALUE of each setting."""
  return [f'--config.{key}={value}' for key, value in settings.items()]


if __name__ == '__main__':
  command.run(main)
