"""The train step compiled for eight CPU devices, and its statistics.

Steps compiled for TPUs are in tpu_test, estimates by hand in roofline_test.
"""

import dataclasses
import json

import jax
import numpy as np
import pytest

from gpt1_jax.compiler import out_of_memory, stats
from gpt1_jax.model import models
from gpt1_jax.train import chips
from tests.support import commands, compiled_steps
from tests.support.compiled_steps import JSON_KEYS, VOCAB, small


def compile_local(**changes):
  topology = chips.topology('local', 1)
  return stats.compile_step(small(**changes), topology, VOCAB, 10)


@pytest.fixture(scope='module')
def looped():
  return compile_local()


def test_products_of_the_step_are_those_of_the_model(looped):
  """Over layers, chunks of the loss and devices, to the last FLOP."""
  found, _, compiled = looped
  again = compiled_steps.second_scores_flops(small(), jax.device_count())
  products = compiled_steps.product_flops(compiled)
  assert products == found.model_flops + again
  assert found.model_flops <= found.cost.flops <= 1.2 * found.model_flops


COMPILES = """
import hashlib, os, signal, threading
import jax
from gpt1_jax import cli
from gpt1_jax.compiler import stats
from gpt1_jax.train import chips
from tests.support import compiled_steps

def compiles(lowered):
  threading.Timer(1, os.kill, (os.getpid(), signal.SIGTERM)).start()
  try:
    hashlib.pbkdf2_hmac('sha256', b'', b'', 5 * 10**7)  # half a minute in C
  finally:
    print('waited')

jax.stages.Lowered.compile = compiles
cli.run(lambda: stats.compile_step(
  compiled_steps.small(), chips.topology('local', 1), compiled_steps.VOCAB, 10
))
"""


def test_a_signal_ends_a_compilation_at_once():
  done = commands.run_forked(COMPILES)
  assert done.returncode == 75
  assert done.stdout == ''
  assert done.stderr == 'stopped by SIGTERM: run the same command again\n'


@pytest.mark.slow
def test_looped_layers_cost_what_unrolled_layers_cost(looped):
  """FLOPs agree within 1 %: the loop's own arithmetic and repeated fusions.

  Unrolled, the compiler finds the second scores and drops them.
  """
  unrolled, _, compiled = compile_local(**{'model.unroll': 4})
  assert compiled_steps.product_flops(compiled) == unrolled.model_flops
  again = compiled_steps.second_scores_flops(small(), jax.device_count())
  flops = looped[0].cost.flops - again
  assert flops == pytest.approx(unrolled.cost.flops, rel=0.01)


def test_statistics_of_a_step(looped):
  found, program, compiled = looped
  memory = compiled.memory_analysis()
  assert found.fits
  assert found.memory.arguments == memory.argument_size_in_bytes
  assert found.memory.temp == memory.temp_size_in_bytes
  config = program.objective.model.config
  printed = found.to_json()
  assert set(printed) == JSON_KEYS
  assert json.loads(json.dumps(printed)) == printed
  assert printed['estimated_step_seconds'] is None  # no peak of a CPU is known
  masked = found.model_flops - printed['causal_model_flops']
  assert masked == 6 * 4 * config.n_ctx**2 * config.n_embd * 16 / 8
  # The gradient in float32, the embedding's perhaps in two parts, the loss and
  # its weight.
  extra = (
    compiled_steps.reduced_bytes(found) - 4 * models.num_parameters(config) - 8
  )
  assert 0 <= extra <= 4 * VOCAB * config.n_embd


@pytest.mark.slow
def test_recomputed_layers_are_counted(looped):
  found, program, _ = compile_local(**{'model.remat': 'full'})
  config = program.objective.model.config
  layers = dataclasses.replace(config, vocab_size=1)
  tokens = 16 * config.n_ctx / 8
  forward = models.flops_per_token(layers) / 3 * tokens
  added = found.cost.flops - looped[0].cost.flops
  assert added == pytest.approx(forward, rel=0.15)


def test_statistics_of_a_step_that_does_not_fit():
  memory = out_of_memory.HbmUse(9, 8, 1, 5)
  printed = compiled_steps.made_up(fits=False, memory=memory).to_json()
  assert set(printed) == JSON_KEYS
  assert printed['flops'] is None
  assert printed['hbm_peak_bytes'] == 9


@pytest.mark.slow
def test_command_prints_a_table_and_json():
  out = commands.succeed(
    'launch/aot_compile.py',
    '--config=configs/pretrain.py:tiny',
    '--config.model.n_layer=1',
    '--topology=local',
    '--vocab_size=300',
    '--json',
  )
  *table, last = out.splitlines()
  printed = json.loads(last)
  assert set(printed) == JSON_KEYS
  assert printed['fits'] is True
  assert 'FLOPs / model FLOPs' in '\n'.join(table)
  assert 'The estimate assumes' in '\n'.join(table)
  assert np.isfinite(printed['bytes_accessed'])
