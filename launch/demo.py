r"""Runs every stage in a few minutes: `make demo`.

  python launch/demo.py --output=runs/demo

Samples from the model that ships, prepares a corpus, pretrains a small model on
it, evaluates it, fine-tunes it beside one without pretraining, and writes a
report. Uses the real commands, and the Python Language Reference that comes
with CPython. The same command resumes an interrupted demo.
"""

import dataclasses
import os
import pathlib
import shlex
import subprocess
import sys
import time

import checkout
import demo_task
from absl import flags
from rich import console, markup, table

from gpt1_jax import cli, storage
from gpt1_jax.errors import RunError

_OUTPUT = flags.DEFINE_string('output', 'runs/demo', 'Folder to write.')
_SEED = flags.DEFINE_integer(
  'seed', 0, 'Seeds the weights, dropout and the data order.'
)

SHIPPED = 'models/mini'
PROMPT = 'She said'
_HOLD_OUT = '--hold_out='
_SECONDS = 1.0  # between looks at a log; each is shown on a terminal
_SECONDS_BETWEEN_LINES = 20.0  # in a file


def main() -> None:
  Demo(pathlib.Path(_OUTPUT.value).absolute(), _SEED.value).run()


@dataclasses.dataclass
class Demo:
  """The stages of the demo."""

  output: pathlib.Path
  seed: int
  screen: console.Console = dataclasses.field(
    default_factory=lambda: console.Console(highlight=False)
  )

  def run(self) -> None:
    began = time.perf_counter()
    self.output.mkdir(parents=True, exist_ok=True)
    self.generate()
    self.prepare()
    self.pretrain()
    self.make_task()
    self.finetune('pretrained', '', 'init_from')
    self.finetune('scratch', ':scratch', 'like')
    self.report()
    self.print_results(time.perf_counter() - began)

  def path(self, name: str) -> str:
    """Returns a path for the commands, which run in the checkout's root."""
    path = self.output / name
    inside = path.is_relative_to(checkout.ROOT)
    return os.path.relpath(path, checkout.ROOT) if inside else str(path)

  @property
  def seeds(self) -> list[str]:
    """The flags of --seed; none for the seed that the presets have."""
    keys = ('data', 'train') if self.seed else ()
    return [f'--config.{key}.seed={self.seed}' for key in keys]

  def generate(self) -> None:
    """Samples from the model that ships."""
    text = self.call(
      'sample',
      'A model of 10 million parameters, which read old novels, writes on.',
      *('generate', f'--workdir={SHIPPED}', f'--prompt={PROMPT}'),
      *('--top_k=40', '--max_tokens=60'),
    )
    self.screen.print(text.strip(), style='italic', markup=False)

  def prepare(self) -> None:
    """Writes token shards of the language reference."""
    self.call(
      'prepare',
      'Clean the Python Language Reference, learn a tokenizer, write tokens.',
      *('prepare', f'--input={demo_task.CORPUS}', '--merges=1500'),
      f'--output={self.path("shards")}',
      '--validation_fraction=0',
      *(f'{_HOLD_OUT}{demo_task.CORPUS}#{x}' for x in demo_task.HELD_OUT),
    )

  def pretrain(self) -> None:
    """Pretrains a model from random weights, and evaluates it."""
    self.call(
      'pretrain',
      'A model of half a million parameters learns to predict the next token.',
      *('pretrain', '--config=configs/pretrain.py:demo'),
      f'--workdir={self.path("pretrain")}',
      f'--config.data.path={self.path("shards")}',
      *self.seeds,
    )
    self.call(
      'evaluate',
      'Score it on the topics that were held out.',
      *('evaluate', f'--workdir={self.path("pretrain")}'),
    )

  def make_task(self) -> None:
    """Writes the choice task and prints one of its examples."""
    topics = demo_task.topics(self.output / 'shards')
    train, dev = demo_task.make_task(*topics)
    demo_task.write_task(self.output / 'task', train, dev)
    self.screen.rule('a task')
    self.screen.print(
      f'Which text continues the passage? {len(train):,} examples to learn '
      f'from, {len(dev):,} of other topics to score. Chance is 50%.'
    )
    example = dev[0]
    right, wrong = example['label'], 1 - example['label']
    for name, text in (
      ('passage', example['text']),
      ('right', example['choices'][right]),
      ('wrong', example['choices'][wrong]),
    ):
      self.screen.print(f'  {name:9}{text}', style='dim', markup=False)

  def finetune(self, name: str, words: str, source: str) -> None:
    """Fine-tunes on the task, with or without pretrained weights."""
    self.call(
      f'fine-tune, {name}',
      'The pretrained network learns the task.'
      if name == 'pretrained'
      else 'The same network from random weights: what did pretraining bring?',
      *('finetune', f'--config=configs/demo_task.py{words}'),
      f'--workdir={self.path(name)}',
      f'--config.{source}={self.path("pretrain")}',
      f'--config.data.path={self.path("task")}',
      *self.seeds,
    )

  def report(self) -> None:
    """Writes the report."""
    runs = ','.join(map(self.path, ('pretrain', 'pretrained', 'scratch')))
    about = 'Write one page with all curves and scores.'
    words = ('report', f'--runs={runs}', f'--output={self.path("")}')
    self.call('report', about, *words)

  def print_results(self, seconds: float) -> None:
    """Prints scores, the time and what to do next."""
    scores = {
      name: storage.read_json(self.output / name / 'scores.json')
      for name in ('pretrain', 'pretrained', 'scratch')
    }
    rows = table.Table(title='Results', show_header=False)
    rows.add_column('measurement')
    rows.add_column('value', justify='right')
    found = scores['pretrain']
    rows.add_row('validation perplexity', f'{found["eval_perplexity"]:.1f}')
    rows.add_row('bits per byte', f'{found["eval_bits_per_byte"]:.2f}')
    rows.add_row('choice task, chance', '50.0%')
    simple = scores['pretrained']['baselines']['tfidf_cosine']['accuracy']
    rows.add_row('choice task, TF-IDF', f'{simple:.1%}')
    for name in ('scratch', 'pretrained'):
      rows.add_row(f'choice task, {name}', f'{scores[name]["score"]:.1%}')
    self.screen.print(rows)
    self.screen.print(
      'Scratch and pretrained differ only in their first weights. Counting '
      'shared words is a strong method on this task.',
      style='dim',
    )
    self.screen.print(
      f'{seconds / 60:.1f} minutes. The page: {self.path("report.html")}\n'
      'Next, your own books: docs/tutorials/books.md',
      markup=False,
    )

  def call(self, stage: str, about: str, verb: str, *args: str) -> str:
    """Runs a command and returns its standard output.

    Args:
      stage: heading, and name of the log file.
      about: sentence to print before the command runs.
      verb: name of the command, such as 'prepare'.
      *args: its arguments.

    Raises:
      RunError: the command failed.
    """
    words = ['python', '-m', f'gpt1_jax.{verb}', *args]
    log = self.output / f'{stage.replace(", ", "-")}.log'
    self.screen.rule(stage)
    self.screen.print(about)
    shown = [word for word in words if not word.startswith(_HOLD_OUT)]
    more = ' (and the topics to hold out)' if shown != words else ''
    self.screen.print(f'$ {shlex.join(shown)}{more}', style='dim', markup=False)
    # Later commands load what an earlier one compiled.
    compiled = {'JAX_COMPILATION_CACHE_DIR': str(self.output / 'compiled')}
    start = time.perf_counter()
    with log.open('w', encoding='utf-8') as file:
      print(f'$ {shlex.join(words)}', file=file, flush=True)
      with subprocess.Popen(
        [sys.executable, *words[1:]],
        cwd=checkout.ROOT,
        env=checkout.environment() | compiled,
        text=True,
        stdout=subprocess.PIPE,
        stderr=file,
      ) as process:
        out = self.wait(process, log)
      file.write(out)
    if process.returncode:
      lines = log.read_text('utf-8').strip().splitlines()
      raise RunError(f'{stage} failed, see {log}: {lines[-1]}')
    seconds = time.perf_counter() - start
    self.screen.print(f'{seconds:.0f} s', style='dim')
    return out

  def wait(self, process: subprocess.Popen[str], log: pathlib.Path) -> str:
    """Shows the last line of a command's log until it ends.

    A terminal shows one line that changes; a file gets a line now and then.

    Returns:
      The command's standard output.
    """
    is_terminal = self.screen.is_terminal
    start = time.perf_counter()
    with self.screen.status(f'see {log}') as status:
      while True:
        try:
          return process.communicate(
            timeout=_SECONDS if is_terminal else _SECONDS_BETWEEN_LINES
          )[0]
        except subprocess.TimeoutExpired:
          _, *lines = log.read_text('utf-8').splitlines()
          last = lines[-1] if lines else 'no output yet'
          line = f'{time.perf_counter() - start:.0f} s: {last}'
          if is_terminal:
            status.update(markup.escape(line))
          else:
            self.screen.print(line, style='dim', markup=False)
        except BaseException:
          process.kill()
          raise


if __name__ == '__main__':
  cli.run(main)
