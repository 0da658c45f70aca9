"""Runs the commands of the package in processes of their own."""

import os
import pathlib
import subprocess
import sys

from tests import QUICKLY_COMPILED

ROOT = pathlib.Path(__file__).resolve().parents[2]


def start(verb: str, *args: object) -> subprocess.Popen[str]:
  """Starts `python -m gpt1_jax.VERB`, or a program of launch/ by its path."""
  program = [verb] if verb.endswith('.py') else ['-m', f'gpt1_jax.{verb}']
  return subprocess.Popen(
    [sys.executable, *program, *map(str, args)],
    cwd=ROOT,
    env={
      **os.environ,
      'XLA_FLAGS': QUICKLY_COMPILED,
      'PYTHONPATH': str(ROOT),
    },
    text=True,
    stdout=subprocess.PIPE,
    stderr=subprocess.PIPE,
  )


def run(verb: str, *args: object) -> subprocess.CompletedProcess[str]:
  """Runs a command to its end."""
  process = start(verb, *args)
  stdout, stderr = process.communicate()
  return subprocess.CompletedProcess(
    process.args, process.returncode, stdout, stderr
  )


def succeed(verb: str, *args: object) -> str:
  """Runs a command that must succeed; returns its stdout."""
  done = run(verb, *args)
  assert done.returncode == 0, done.stderr
  return done.stdout


def fail(verb: str, *args: object) -> str:
  """Runs a command that must fail; returns its one line of error."""
  done = run(verb, *args)
  assert done.returncode == 1, done.stderr
  assert 'Traceback' not in done.stderr
  lines = [x for x in done.stderr.splitlines() if x.startswith('error:')]
  assert len(lines) == 1, done.stderr
  return lines[0]
