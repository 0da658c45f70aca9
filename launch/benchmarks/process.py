"""Both ends of the talk between launch/benchmark.py and its candidates.

Lines of JSON over pipes: the candidate says what it is once it is warm, then
runs one repetition for each line that it reads. While one runs the others wait
in a read and use no processor.
"""

import contextlib
import json
import os
import pathlib
import re
import subprocess
import sys
import tempfile
from collections.abc import Callable, Mapping
from typing import Any

from benchmarks import results
from gpt1_jax.errors import UserError

ROOT = pathlib.Path(__file__).resolve().parents[2]
# One repetition: what was measured, by name.
Measure = Callable[[], dict[str, float]]


class MissingError(Exception):
  """A candidate cannot be here; the message is a sentence for the user."""


class Candidate:
  """A process that repeats a measurement when asked.

  Attributes:
    name: for messages.
    facts: what it said of itself once it was warm.
  """

  def __init__(self, name: str, module: str, settings: Mapping[str, Any]):
    """Starts it and waits until it is warm.

    Args:
      name: for messages.
      module: of this package.
      settings: what its `prepare` is given.

    Raises:
      MissingError: something it needs is not installed.
      UserError: it failed.
    """
    self.name = name
    self._errors = tempfile.TemporaryFile('w+')  # noqa: SIM115, see `close`
    self._process = subprocess.Popen(
      [sys.executable, '-m', f'benchmarks.{module}', json.dumps(settings)],
      stdin=subprocess.PIPE,
      stdout=subprocess.PIPE,
      stderr=self._errors,
      text=True,
      env=_environment(),
    )
    try:
      self.facts = self._read()
      if 'missing' in self.facts:
        raise MissingError(self.facts['missing'])
    except BaseException:
      self.close()
      raise

  def repeat(self) -> dict[str, float]:
    """One repetition."""
    with contextlib.suppress(BrokenPipeError):  # `_read` says what happened
      self._process.stdin.write('\n')
      self._process.stdin.flush()
    return self._read()

  def close(self) -> None:
    """Ends it."""
    with contextlib.suppress(BrokenPipeError):
      self._process.stdin.close()
    try:
      self._process.wait(timeout=60)
    except subprocess.TimeoutExpired:
      self._process.kill()
      self._process.wait()
    self._process.stdout.close()
    self._errors.close()

  def _read(self) -> dict[str, Any]:
    line = self._process.stdout.readline()
    if not line:
      code = self._process.wait()
      self._errors.seek(0)
      said = self._errors.read().strip().splitlines() or ['nothing']
      raise UserError(f'{self.name} ended with {code}, and said: {said[-1]}')
    return json.loads(line)


def _environment() -> dict[str, str]:
  """This tree before an installed one."""
  there = os.environ.get('PYTHONPATH')
  paths = [str(ROOT), str(ROOT / 'launch'), *([there] if there else [])]
  return {**os.environ, 'PYTHONPATH': os.pathsep.join(paths)}


def alternate(
  candidates: Mapping[str, tuple[str, Mapping[str, Any]]],
  options: results.Options,
) -> tuple[dict[str, list[dict[str, float]]], dict[str, Any]]:
  """Repetitions in turn, A B A B ..., each candidate in its own process.

  Args:
    candidates: name → module and settings.
    options: how many repetitions; what is said goes to it, and who failed.

  Returns:
    What each measured, and what each said of itself. Those that are missing
    or failed are in neither; why, has been said.
  """
  with contextlib.ExitStack() as stack:
    there: dict[str, Candidate] = {}

    def failed(name: str, error: UserError) -> None:
      options.say(f'{name}: failed, {error}')
      options.failed.append(name)
      there.pop(name, None)

    for name, (module, settings) in candidates.items():
      options.say(f'{name}: starting')
      try:
        there[name] = Candidate(name, module, settings)
      except MissingError as missing:
        options.say(f'{name}: left out, {missing}')
      except UserError as error:
        failed(name, error)
      else:
        stack.callback(there[name].close)
    measured: dict[str, list[dict[str, float]]] = {name: [] for name in there}
    for number in range(options.repeats):
      for name, candidate in list(there.items()):
        try:
          measured[name].append(candidate.repeat())
        except UserError as error:
          failed(name, error)
          continue
        options.say(f'{name}: repetition {number + 1} of {options.repeats}')
    facts = {name: candidate.facts for name, candidate in there.items()}
    return {name: measured[name] for name in there}, facts


def once(
  module: str, settings: Mapping[str, Any]
) -> tuple[dict[str, float], dict[str, Any]]:
  """One repetition in a process that does nothing else; with its facts.

  Raises:
    MissingError, UserError: see `Candidate`.
  """
  with contextlib.closing(Candidate(module, module, settings)) as candidate:
    return candidate.repeat(), candidate.facts


def serve(
  prepare: Callable[[dict[str, Any]], tuple[Measure, dict[str, Any]]],
) -> None:
  """A candidate's end: prepares, then measures for each line it reads.

  Args:
    prepare: settings → what measures, warm, and facts. An ImportError in it
      says that something is not installed.
  """
  # What libraries print goes to stderr.
  with os.fdopen(os.dup(1), 'w') as out:
    os.dup2(2, 1)

    def say(value: dict[str, Any]) -> None:
      print(json.dumps(value), file=out, flush=True)

    try:
      measure, facts = prepare(json.loads(sys.argv[1]))
    except ModuleNotFoundError as error:
      say({'missing': _sentence(error)})
      return
    except MissingError as missing:
      say({'missing': str(missing)})
      return
    say(facts)
    for _ in sys.stdin:
      say(measure())


def _sentence(error: ModuleNotFoundError) -> str:
  return f"{error.name} is not installed: pip install '.[peers]'"


def memory_bytes() -> dict[str, int]:
  """Resident memory of this process: now, and the most since it started.

  Raises:
    MissingError: not on Linux.
  """
  try:
    text = pathlib.Path('/proc/self/status').read_text()
  except OSError:
    raise MissingError(
      'memory is read from /proc, which only Linux has'
    ) from None
  found = dict(re.findall(r'^(VmHWM|VmRSS):\s+(\d+) kB', text, re.MULTILINE))
  return {
    'resident_bytes': int(found['VmRSS']) * 1024,
    'peak_bytes': int(found['VmHWM']) * 1024,
  }
