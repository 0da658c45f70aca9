"""The search for settings: what it compiles, what it spares, what it names."""

import importlib.util
import io
import os
import pathlib

import pytest
from rich import console

from configs import pretrain as config_file
from gpt1_jax.compiler import compiled
from gpt1_jax.errors import UserError

ROOT = pathlib.Path(__file__).resolve().parents[1]
GIB = 2**30


@pytest.fixture(scope='module')
def suggest():
  """launch/suggest.py, which is no module of the package."""
  spec = importlib.util.spec_from_file_location(
    'suggest', ROOT / 'launch' / 'suggest.py'
  )
  module = importlib.util.module_from_spec(spec)
  spec.loader.exec_module(module)
  return module


class Compiler:
  """Makes up figures; remembers what it was asked."""

  def __init__(self, temp, seconds, arguments=1, crashes=()):
    self.crashes = crashes
    self.temp, self.seconds, self.arguments = temp, seconds, arguments
    self.asked = []

  def __call__(self, config):
    self.asked.append(chosen(config))
    remat, cut, fsdp, _ = self.asked[-1]
    temp = self.temp[remat] / cut * GIB
    arguments = self.arguments / fsdp * GIB
    fits = temp + arguments <= 16 * GIB
    figures = compiled.Figures(
      fits=fits,
      hbm_peak_bytes=temp + arguments,
      hbm_temp_bytes=temp,
      hbm_argument_bytes=arguments,
      hbm_capacity_bytes=16 * GIB,
      flops=1e12,
      model_flops=1e12,
      bytes_accessed=1e9,
      hbm_bytes=1e9,
      collectives=[],
      compile_seconds=1.0,
      seconds={'compute': self.seconds[remat] + cut / 1000} if fits else {},
    )
    return None if remat in self.crashes else figures


def chosen(config):
  """What the search chose: remat, microbatches, fsdp, tensor."""
  mesh = config['mesh']
  return (
    config['model']['remat'],
    config['train']['microbatches'],
    mesh['fsdp'],
    mesh['tensor'],
  )


def search(suggest, compiler, devices=4, **changes):
  config = config_file.get_config('paper')
  config.update_from_flattened_dict({'data.path': '', **changes})
  lines = io.StringIO()
  found = suggest.fastest(
    config.to_dict(), compiler, devices, 1, console.Console(file=lines)
  )
  return found, lines.getvalue()


SECONDS = {'none': 1.0, 'dots': 1.1, 'full': 1.3}


def test_the_fastest_that_fits_is_named(suggest):
  compiler = Compiler({'none': 100.0, 'dots': 20.0, 'full': 4.0}, SECONDS)
  (config, figures), lines = search(suggest, compiler)
  assert chosen(config) == ('none', 8, 1, 1)
  assert figures.fits
  # What 100 GiB of temporaries rule out (2 and 4 parts) is not compiled, nor
  # are more parts than are needed, nor other meshes for a small state.
  assert compiler.asked == [
    ('none', 1, 1, 1),
    ('none', 8, 1, 1),
    ('dots', 1, 1, 1),
    ('dots', 2, 1, 1),
    ('full', 1, 1, 1),
  ]
  assert lines.count('compiling') == len(compiler.asked)
  assert lines.count('does not fit') == 2


def test_recomputing_wins_where_it_is_faster(suggest):
  seconds = {'none': 1.0, 'dots': 0.9, 'full': 0.95}
  compiler = Compiler({'none': 4.0, 'dots': 3.0, 'full': 2.0}, seconds)
  (config, _), _ = search(suggest, compiler)
  assert chosen(config) == ('dots', 1, 1, 1)
  assert len(compiler.asked) == 3


def test_a_large_state_is_spread(suggest):
  temp = {'none': 4.0, 'dots': 3.0, 'full': 2.0}
  compiler = Compiler(temp, SECONDS, arguments=20)
  (config, _), _ = search(suggest, compiler)
  assert chosen(config) == ('none', 1, 4, 1)
  assert config['mesh'] == {'data': 1, 'fsdp': 4, 'tensor': 1}
  assert all(
    fsdp in (1, 4) and tensor == 1 for *_, fsdp, tensor in compiler.asked
  )


def test_nothing_fits(suggest):
  temp = {'none': 4e6, 'dots': 3e6, 'full': 2e6}
  with pytest.raises(UserError, match='more chips'):
    search(suggest, Compiler(temp, SECONDS))


def test_a_crash_of_the_compiler_is_left_out(suggest):
  temp = {'none': 4.0, 'dots': 3.0, 'full': 2.0}
  compiler = Compiler(temp, SECONDS, crashes=('none',))
  (config, _), lines = search(suggest, compiler)
  assert chosen(config) == ('dots', 1, 1, 1)
  assert lines.count('the compiler crashed') == 1


def crash(*_):
  os._exit(139)


def test_a_crash_is_of_its_own_process(suggest, monkeypatch):
  monkeypatch.setattr(suggest, '_figures', crash)
  assert suggest.compile_apart({}, 'local', 1) is None
