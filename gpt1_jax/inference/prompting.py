"""Continues prompts on the terminal."""

import contextlib
import dataclasses
import itertools
import sys
from collections.abc import Iterator, Sequence

from gpt1_jax import interrupts, storage
from gpt1_jax.errors import UserError
from gpt1_jax.inference import continuation
from gpt1_jax.inference.continuation import Continuation
from gpt1_jax.inference.loading import Run
from gpt1_jax.inference.options import Options

_HISTORY = '~/.cache/gpt1_jax/prompts'


def sample(run: Run, how: Options, prompts: Sequence[str], each: int) -> None:
  """Prints `each` samples of every prompt; a single one as it grows."""
  samples = [
    run.start(prompt, how, (number, sample))
    for number, prompt in enumerate(prompts)
    for sample in range(each)
  ]
  for prompt, first in zip(prompts, samples[::each], strict=True):
    _warn(first, prompt)
  if len(samples) == 1:
    _print_growing(run, samples[0], prompts[0])
    return
  continuation.run(run.decoder(), samples)
  numbers = itertools.product(range(len(prompts)), range(each))
  for (number, sample), made in zip(numbers, samples, strict=True):
    of = f'prompt {number + 1}, ' if len(prompts) > 1 else ''
    whole = ', to the end of the document' * (made.finish_reason == 'stop')
    print(f'--- {of}sample {sample + 1}{whole}')
    print(run.spelled(prompts[number]) + made.text)
  sys.stdout.flush()


def _warn(sample: Continuation, prompt: str) -> None:
  if sample.cut_notice:
    print(f'note: {prompt[:20]!r}...: {sample.cut_notice}', file=sys.stderr)


def _print_growing(run: Run, sample: Continuation, prompt: str) -> None:
  """Prints a sample as it grows; always ends the line."""
  print(run.spelled(prompt), end='', flush=True)
  try:
    for piece in run.follow(sample):
      print(piece.text, end='', flush=True)
  finally:
    print(flush=True)
  if sample.finish_reason == 'stop':
    print('note: the document ends here', file=sys.stderr)


def converse(run: Run, how: Options) -> None:
  """Continues one prompt after another, each with the next seed."""
  interrupts.release()
  seeds = itertools.count(how.seed)
  print(f'{run}\nCtrl-C ends a sample, Ctrl-D ends the program.')
  with _history():
    while True:
      try:
        prompt = input('> ')
      except KeyboardInterrupt:
        print()
        continue
      except EOFError:
        print()
        return
      seed = next(seeds) % 2**63
      sample = run.start(prompt, dataclasses.replace(how, seed=seed))
      _warn(sample, prompt)
      with contextlib.suppress(KeyboardInterrupt):
        _print_growing(run, sample, prompt)


@contextlib.contextmanager
def _history() -> Iterator[None]:
  """Lets the arrow keys recall prompts, including earlier sessions'."""
  try:
    import readline
  except ImportError:  # Python was built without it
    yield
    return
  with contextlib.suppress(UserError, OSError):
    readline.read_history_file(storage.path(_HISTORY))
  readline.set_history_length(1000)
  try:
    yield
  finally:
    with contextlib.suppress(UserError, OSError):
      path = storage.path(_HISTORY)
      path.parent.mkdir(parents=True, exist_ok=True)
      readline.write_history_file(path)
