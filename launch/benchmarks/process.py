"""Runs each candidate in its own process and alternates between them.

A candidate prints JSON lines: library versions once it has warmed up, then one
result for each line that it reads. While one runs, the others block on a read
and use no CPU time.
"""

import contextlib
import dataclasses
import importlib
import json
import os
import pathlib
import resource
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Mapping
from typing import Any

import checkout

from benchmarks.case import Case
from gpt1_jax.errors import UserError

LAUNCH = pathlib.Path(__file__).resolve().parents[1]
# Runs one repetition; returns the units of work done and the seconds taken.
Repeat = Callable[[], tuple[float, float]]
# A candidate's results: seconds, rate (units per second), peak_bytes.
Result = dict[str, float]


def timed(work: Callable[[], float]) -> Repeat:
  """Returns a repetition that times `work`, which returns its units."""

  def repeat() -> tuple[float, float]:
    start = time.perf_counter()
    units = work()
    return units, time.perf_counter() - start

  return repeat


class MissingError(Exception):
  """Raised if a library that a candidate needs is not installed."""


class Candidate:
  """A process that repeats a measurement on request."""

  def __init__(self, name: str, function: str, case: Case):
    """Starts the process and waits until it has warmed up.

    Args:
      name: name for messages.
      function: MODULE.FUNCTION in this package, which maps a case to a `Repeat`
        and library versions.
      case: argument of the function.

    Raises:
      MissingError, UserError: a library is missing; the candidate failed.
    """
    self.name = name
    self._errors = tempfile.TemporaryFile('w+')  # noqa: SIM115, see `close`
    # Candidates share a GPU: none may take all of its memory.
    settings = {'XLA_PYTHON_CLIENT_PREALLOCATE': 'false'}
    self._process = subprocess.Popen(
      [
        *(sys.executable, '-m', 'benchmarks.process', function),
        json.dumps(dataclasses.asdict(case)),
      ],
      stdin=subprocess.PIPE,
      stdout=subprocess.PIPE,
      stderr=self._errors,
      text=True,
      env=settings | checkout.environment(LAUNCH),
    )
    try:
      self.versions: dict[str, str] = self._read()
      if 'missing' in self.versions:
        raise MissingError(self.versions['missing'])
    except BaseException:
      self.close()
      raise

  def repeat(self) -> Result:
    assert self._process.stdin
    with contextlib.suppress(BrokenPipeError):  # `_read` reports the cause
      self._process.stdin.write('\n')
      self._process.stdin.flush()
    return self._read()

  def close(self) -> None:
    with contextlib.suppress(BrokenPipeError, subprocess.TimeoutExpired):
      self._process.communicate(timeout=60)
    self._process.kill()
    self._process.wait()
    self._errors.close()

  def _read(self) -> Any:
    assert self._process.stdout
    line = self._process.stdout.readline()
    if not line:
      code = self._process.wait()
      self._errors.seek(0)
      lines = self._errors.read().strip().splitlines() or ['no message']
      raise UserError(f'{self.name} ended with {code}: {lines[-1]}')
    return json.loads(line)


@dataclasses.dataclass
class Results:
  """Results of a suite: by candidate, one for each repetition."""

  measured: dict[str, list[Result]] = dataclasses.field(default_factory=dict)
  versions: dict[str, str] = dataclasses.field(default_factory=dict)
  failed: list[str] = dataclasses.field(default_factory=list)


def alternate(
  candidates: Mapping[str, tuple[str, Case]],
  repeats: int,
  say: Callable[[str], None],
) -> Results:
  """Measures candidates alternately (A B A B), each in its own process.

  Args:
    candidates: maps names to function and case, see `Candidate`.
    repeats: repetitions per candidate.
    say: receives progress lines, and the reason if a candidate is skipped.
  """
  out = Results()
  with contextlib.ExitStack() as stack:
    running: dict[str, Candidate] = {}

    def fail(name: str, error: UserError) -> None:
      say(f'{name}: failed, {error}')
      out.failed.append(name)
      running.pop(name, None)
      out.measured.pop(name, None)

    for name, (function, case) in candidates.items():
      say(f'{name}: starting')
      try:
        candidate = Candidate(name, function, case)
      except MissingError as missing:
        say(f'{name}: skipped, {missing}')
      except UserError as error:
        fail(name, error)
      else:
        stack.callback(candidate.close)
        running[name] = candidate
        out.versions |= candidate.versions
        out.measured[name] = []
    for number in range(repeats):
      for name, candidate in list(running.items()):
        try:
          out.measured[name].append(candidate.repeat())
        except UserError as error:
          fail(name, error)
          continue
        say(f'{name}: repetition {number + 1} of {repeats}')
  return out


def _serve(function: str, case: Case) -> None:
  """Prepares a candidate, then measures once per line of stdin."""
  # Redirects everything that libraries print to stderr.
  with os.fdopen(os.dup(1), 'w') as out:
    os.dup2(2, 1)

    def say(value: Mapping[str, Any]) -> None:
      print(json.dumps(value), file=out, flush=True)

    module, _, name = function.partition('.')
    try:
      prepare = getattr(importlib.import_module(f'benchmarks.{module}'), name)
      repeat, versions = prepare(case)
    except ModuleNotFoundError as error:
      say({'missing': f"{error.name}: pip install 'gpt1_jax[torch]'"})
      return
    say(versions)
    for _ in sys.stdin:
      units, seconds = repeat()
      peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024
      say({'seconds': seconds, 'rate': units / seconds, 'peak_bytes': peak})


if __name__ == '__main__':
  _serve(sys.argv[1], Case(**json.loads(sys.argv[2])))
