"""Tests what the search for the fastest settings compiles and returns."""

import io
import os

import pytest
import suggest
from rich import console

from gpt1_jax.compiler import out_of_memory
from gpt1_jax.errors import UserError
from tests.support import commands, compiled_steps

GIB = 2**30


class Compiler:
  """Makes up statistics; remembers the settings it was asked for."""

  def __init__(self, temp, seconds, arguments=1, crashes=(), spread=0.5):
    self.crashes, self.spread = crashes, spread
    self.temp, self.seconds, self.arguments = temp, seconds, arguments
    self.asked = []

  def __call__(self, config):
    self.asked.append(chosen(config))
    remat, microbatches, fsdp, _ = self.asked[-1]
    temp = self.temp[remat] / microbatches * GIB
    arguments = self.arguments / fsdp * GIB
    memory = out_of_memory.HbmUse(temp + arguments, temp, arguments, 16 * GIB)
    found = compiled_steps.made_up(
      fits=temp + arguments <= 16 * GIB,
      memory=memory,
      seconds=self.seconds[remat]
      + microbatches / 1000
      + self.spread * (fsdp > 1),
    )
    return None if remat in self.crashes else found


def chosen(config):
  """Returns what the search chose: remat, microbatches, fsdp, tensor."""
  remat, microbatches = config.model.remat, config.train.microbatches
  return remat, microbatches, config.mesh.fsdp, config.mesh.tensor


def search(compiler, config=None):
  lines = console.Console(file=io.StringIO())
  config = config or compiled_steps.preset('paper')
  found = suggest.fastest(config, compiler, 4, 1, lines)
  return found, lines.file.getvalue()


SECONDS = {'none': 1.0, 'dots': 1.1, 'dots_except_qkv': 1.2, 'full': 1.3}
SMALL = {'none': 4.0, 'dots': 3.0, 'dots_except_qkv': 2.5, 'full': 2.0}


def test_fastest_that_fits_is_returned():
  temp = {'none': 100.0, 'dots': 20.0, 'dots_except_qkv': 8.0, 'full': 4.0}
  compiler = Compiler(temp, SECONDS)
  (config, found), lines = search(compiler)
  assert chosen(config) == ('none', 8, 1, 1)
  assert found.fits
  # Not compiled: 2 and 4 microbatches, which 100 GiB of temporaries rule out;
  # more microbatches than are needed; other meshes with another remat, since
  # the state is small.
  assert compiler.asked == [
    ('none', 1, 1, 1),
    ('none', 8, 1, 1),
    ('dots', 1, 1, 1),
    ('dots', 2, 1, 1),
    ('dots_except_qkv', 1, 1, 1),
    ('full', 1, 1, 1),
    ('none', 1, 4, 1),
    ('none', 8, 4, 1),
  ]
  assert lines.count('compiling') == len(compiler.asked)
  assert lines.count('does not fit') == 3


def test_recomputing_wins_if_it_is_faster():
  compiler = Compiler(SMALL, SECONDS | {'dots': 0.9})
  (config, _), _ = search(compiler)
  assert chosen(config) == ('dots', 1, 1, 1)
  assert len(compiler.asked) == 5


def test_fsdp_wins_if_it_is_faster():
  (config, _), _ = search(Compiler(SMALL, SECONDS, spread=-0.1))
  assert chosen(config) == ('none', 1, 4, 1)


def test_large_state_is_spread():
  compiler = Compiler(SMALL, SECONDS, arguments=20, spread=0.0)
  (config, _), _ = search(compiler)
  assert chosen(config) == ('none', 1, 4, 1)
  assert config.mesh.data == 1
  assert {asked[2:] for asked in compiler.asked} <= {(1, 1), (4, 1)}


def test_error_if_nothing_fits():
  temp = {remat: 1e6 * size for remat, size in SMALL.items()}
  with pytest.raises(UserError, match='more chips'):
    search(Compiler(temp, SECONDS))


def test_crash_of_the_compiler_is_skipped():
  (config, _), lines = search(Compiler(SMALL, SECONDS, crashes=('none',)))
  assert chosen(config) == ('dots', 1, 1, 1)
  assert lines.count('the compiler crashed') == 1


def crash(*_):
  os._exit(139)


def test_crash_ends_only_its_own_process(monkeypatch):
  monkeypatch.setattr(suggest, '_compile', crash)
  assert suggest.compile_in_process(None, 'local', 1) is None


def test_an_lstm_has_no_remat_to_search():
  found = compiled_steps.made_up(memory=out_of_memory.HbmUse(2, 1, 1, 16 * GIB))
  config = compiled_steps.preset('lstm,tiny', **{'data.batch_size': 16})
  (config, _), _ = search(lambda _: found, config)
  assert 'remat' not in suggest.flags(config)


WAITS = """
import os, signal, threading, time
import suggest
from gpt1_jax import cli
def after(seconds, function, *args):
  timer = threading.Timer(seconds, function, args)
  timer.daemon = True
  timer.start()
def main():
  after(2, os.kill, os.getpid(), signal.SIGTERM)
  after(20, os.write, 1, b'waited')
  suggest.in_process(time.sleep, 40)
cli.run(main)
"""


def test_a_signal_ends_the_search_and_its_compilation_at_once():
  done = commands.run_forked(WAITS)
  assert done.returncode == 75
  assert done.stdout == ''
  assert done.stderr == 'stopped by SIGTERM: run the same command again\n'
