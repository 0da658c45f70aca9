"""The prompt of `generate`: files, cut prompts, Ctrl-C, history."""

import os
import pty
import select
import signal
import subprocess
import sys
import time

import pytest

import gpt1_jax
from gpt1_jax.inference import continuation, options
from tests.support import commands

pytestmark = pytest.mark.slow


def test_prompt_file_and_a_prompt_that_is_cut(pretrained, tmp_path):
  file = tmp_path / 'opening.txt'
  file.write_text('the string ' * 60 + '\n')
  done = commands.run(
    'generate',
    f'--workdir={pretrained}',
    f'--prompt_file={file}',
    '--max_tokens=6',
    '--seed=4',
  )
  assert done.returncode == 0, done.stderr
  run = gpt1_jax.load(pretrained)
  prompt = file.read_text().strip()
  notice = f'has {len(run.encode(prompt))} tokens; the model reads only the '
  with pytest.warns(UserWarning, match=notice + 'last 64'):
    text = run.generate(prompt, max_tokens=6, seed=4)
  assert done.stdout == text + '\n'
  assert notice in done.stderr


def test_a_prompt_comes_from_stdin_if_asked(pretrained):
  done = subprocess.run(
    [
      sys.executable, '-m', 'gpt1_jax.generate', f'--workdir={pretrained}',
      '--prompt_file=-', '--max_tokens=6', '--seed=4',
    ],
    cwd=commands.ROOT,
    input='the string\n',
    capture_output=True,
    text=True,
  )  # fmt: skip
  run = gpt1_jax.load(pretrained)
  text = run.generate('the string', max_tokens=6, seed=4)
  assert done.stdout == text + '\n'
  assert done.stderr == f'generate: from {pretrained}; loading JAX\n'


def test_the_end_of_a_document_is_said(pretrained):
  run = gpt1_jax.load(pretrained)
  how = options.parse({'max_tokens': 30})
  samples = [run.start('', how, (0, number)) for number in range(4)]
  continuation.run(run.decoder(), samples)
  ends = [sample.finish_reason == 'stop' for sample in samples]
  assert {True, False} == {*ends}
  words = ('generate', f'--workdir={pretrained}', '--max_tokens=30')
  out = commands.succeed(*words, '--num_samples=4')
  found = [line for line in out.splitlines() if line.startswith('--- sample')]
  marks = [', to the end of the document' * end for end in ends]
  assert found == [f'--- sample {i + 1}{mark}' for i, mark in enumerate(marks)]


@pytest.mark.parametrize(
  ('seed', 'note'), [(0, ''), (1, 'note: the document ends here\n')]
)
def test_the_end_of_a_document_is_a_note_below_a_single_sample(
  pretrained, seed, note
):
  words = ('generate', f'--workdir={pretrained}', '--max_tokens=30')
  first = f'generate: from {pretrained}; loading JAX\n'
  assert commands.run(*words, f'--seed={seed}').stderr == first + note


@pytest.mark.parametrize(
  ('flags', 'message'),
  [
    (['--temperature=nan'], 'temperature is nan: must be finite'),
    (['--seed=9223372036854775808'], 'seed is 9223372036854775808: must be'),
    (['--max_tokens=0'], '--max_tokens=0: 0 is not a positive integer'),
    ([f'--num_samples={10**12}'], f'{10**12} is not an integer in the range'),
    (['--interactive', '--prompt=x'], '--interactive asks for one prompt'),
    (['--prompt_file=/none'], '/none'),
  ],
)
def test_mistakes_are_one_line(pretrained, flags, message):
  assert message in commands.fail('generate', f'--workdir={pretrained}', *flags)


def test_ctrl_c_ends_the_sample_and_not_the_program(pretrained, tmp_path):
  """Talks to the program over a terminal."""
  ours, theirs = pty.openpty()
  process = subprocess.Popen(
    [
      sys.executable, '-m', 'gpt1_jax.generate', f'--workdir={pretrained}',
      '--interactive', '--greedy', '--max_tokens=1000000',
    ],
    cwd=commands.ROOT,
    env={**os.environ, 'HOME': str(tmp_path), 'TERM': 'dumb'},
    stdin=theirs,
    stdout=theirs,
    stderr=theirs,
    start_new_session=True,
  )  # fmt: skip
  with commands.ending(process):
    os.close(theirs)
    read_until(ours, b'> ')
    for prompt in (b'the file', b'a module'):
      os.write(ours, prompt + b'\n')
      read_until(ours, prompt, more=8)
      os.kill(process.pid, signal.SIGINT)
      read_until(ours, b'\n> ')
    os.write(ours, b'\x04')
    assert process.wait(60) == 0
  os.close(ours)
  history = tmp_path / '.cache/gpt1_jax/prompts'
  assert history.read_text().split('\n')[-3:] == ['the file', 'a module', '']


def test_a_conversation_ends_without_the_shutdown_of_python(pretrained):
  """Freed while XLA computes a sample that Ctrl-C ended, objects crash it."""
  code = (
    'import atexit; from gpt1_jax import cli, generate; '
    "atexit.register(print, 'shutdown'); cli.run(generate.main)"
  )
  done = subprocess.run(
    [sys.executable, '-c', code, f'--workdir={pretrained}', '--interactive'],
    cwd=commands.ROOT,
    stdin=subprocess.DEVNULL,
    capture_output=True,
    text=True,
    timeout=300,
    check=True,
  )
  assert 'Ctrl-D ends the program' in done.stdout
  assert 'shutdown' not in done.stdout


def read_until(terminal: int, wanted: bytes, more: int = 0) -> None:
  """Reads until `wanted` appears (twice if `more`), and then `more` bytes.

  The terminal echoes a prompt before the program prints it.
  """
  seen, end = b'', time.monotonic() + 120
  count = 2 if more else 1
  while seen.count(wanted) < count or len(seen.split(wanted)[-1]) < more:
    assert time.monotonic() < end, seen
    if select.select([terminal], [], [], 1)[0]:
      seen += os.read(terminal, 1024).replace(b'\r', b'')


def test_a_missing_model_names_the_commands_that_make_one():
  line = commands.fail('generate', '--workdir=nowhere')
  assert line == (
    'error: nowhere: no such folder; gpt1-pretrain --help shows how to make a '
    'model'
  )
  page = commands.succeed('pretrain', '--help')
  assert '--config=configs/pretrain.py:demo' in page
  assert 'hf download openai-community' in commands.succeed('convert', '--help')
