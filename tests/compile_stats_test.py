"""The train step compiled for eight CPU devices, and its statistics.

Steps compiled for TPUs are in tpu_test.
"""

import dataclasses
import json

import jax
import numpy as np
import pytest

from gpt1_jax.compiler import out_of_memory, roofline, stats
from gpt1_jax.compiler.collectives import Collective
from gpt1_jax.compiler.hlo_text import HloText
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


# Sixteen products of a v5e, an all-reduce that waits, and one behind a product.
TEXT = """\
HloModule jit_step, is_scheduled=true, num_partitions=4

%body (s: (s32[], bf16[512,64])) -> (s32[], bf16[512,64]) {
  %s = (s32[], bf16[512,64]{1,0}) parameter(0)
  %i = s32[] get-tuple-element(%s), index=0
  %x = bf16[512,64]{1,0:S(1)} get-tuple-element(%s), index=1
  %w = bf16[64,4096]{1,0:S(1)} constant({...})
  %y = bf16[512,4096]{1,0:S(1)} dot(%x, %w), lhs_contracting_dims={1}, \
rhs_contracting_dims={0}, metadata={op_name="jit(step)/GPT._blocks/h/mlp/dot"}
  ROOT %out = (s32[], bf16[512,64]{1,0}) tuple(%i, %x)
}

%condition (s: (s32[], bf16[512,64])) -> pred[] {
  %s = (s32[], bf16[512,64]{1,0}) parameter(0)
  ROOT %go = pred[] constant(true)
}

ENTRY %main (p: (s32[], bf16[512,64]), g: f32[1000,1000]) -> f32[1000,1000] {
  %p = (s32[], bf16[512,64]{1,0}) parameter(0)
  %g = f32[1000,1000]{1,0:S(1)} parameter(1)
  %loop = (s32[], bf16[512,64]{1,0}) while(%p), condition=%condition, \
body=%body, backend_config={"known_trip_count":{"n":"16"}}
  %sum = f32[1000,1000]{1,0:S(1)} all-reduce(%g), replica_groups={{0,1,2,3}}
  %start = f32[1000,1000]{1,0:S(1)} all-reduce-start(%g), \
replica_groups={{0,1,2,3}}
  %far = f32[1000,1000]{1,0} copy(%g)
  %add = f32[1000,1000]{1,0:S(1)} add(%g, %sum)
  ROOT %done = f32[1000,1000]{1,0:S(1)} all-reduce-done(%start)
}
"""


@dataclasses.dataclass
class Device:
  device_kind: str = 'TPU v5 lite'


V5E = chips.Topology('v5e:2x2', 1, [Device()], (2, 2))


def test_estimate_equals_the_count_by_hand():
  """A square of four v5e: two of four links, 50 GB/s each."""
  found = roofline.estimate(HloText(TEXT), V5E, 64)
  product = 2 * 512 * 64 * 4096 / (197e12 / 2)  # 64 fill half of the unit
  copied, added = 4e6 / 819e9, 1e6 / 6.1e12
  ring = 2 * 3 / 4 * 4e6 / 1e11
  expected = {
    'products: blocks': 16 * product,
    'collectives, not hidden': ring + ring - copied - added,
    'copies: head, loss and optimiser': copied,
    'other arithmetic: head, loss and optimiser': added,
  }
  seconds = {kind: part.seconds for kind, part in found.parts.items()}
  assert seconds == pytest.approx(expected)
  assert list(seconds) == sorted(seconds, key=seconds.get, reverse=True)
  assert found.step_seconds == pytest.approx(sum(expected.values()))
  assert found.bottleneck == 'collectives, not hidden'
  assert found.parts['copies: head, loss and optimiser'].hbm == copied


# An all-reduce in three parts, as libtpu writes it: begun, beside a product,
# and ended.
CHAIN = """\
HloModule jit_step, is_scheduled=true, num_partitions=4

%begin (g: f32[1000,1000]) -> f32[1000,1000] {
  %g = f32[1000,1000]{1,0:S(1)} parameter(0)
  %sum = f32[1000,1000]{1,0:S(1)} all-reduce(%g), channel_id=1, \
replica_groups={{0,1,2,3}}, frontend_attributes={chain_id="0"}
  ROOT %call = f32[1000,1000]{1,0:S(1)} custom-call(%sum), \
custom_call_target="AsyncCollectiveStart"
}

%beside (g: f32[1000,1000], x: bf16[512,128]) -> bf16[512,128] {
  %g = f32[1000,1000]{1,0:S(1)} parameter(0)
  %x = bf16[512,128]{1,0:S(1)} parameter(1)
  %sum = f32[1000,1000]{1,0:S(1)} all-reduce(%g), channel_id=1, \
replica_groups={{0,1,2,3}}, frontend_attributes={chain_id="0"}
  %w = bf16[128,128]{1,0:S(1)} constant({...})
  ROOT %y = bf16[512,128]{1,0:S(1)} dot(%x, %w), lhs_contracting_dims={1}, \
rhs_contracting_dims={0}
}

%end (g: f32[1000,1000]) -> f32[1000,1000] {
  %g = f32[1000,1000]{1,0:S(1)} parameter(0)
  %sum = f32[1000,1000]{1,0:S(1)} all-reduce(%g), channel_id=1, \
replica_groups={{0,1,2,3}}, frontend_attributes={chain_id="0"}
  ROOT %call = f32[1000,1000]{1,0:S(1)} custom-call(%sum), \
custom_call_target="AsyncCollectiveDone"
}

ENTRY %main (g: f32[1000,1000], x: bf16[512,128]) -> f32[1000,1000] {
  %g = f32[1000,1000]{1,0:S(1)} parameter(0)
  %x = bf16[512,128]{1,0:S(1)} parameter(1)
  %start = f32[1000,1000]{1,0:S(1)} fusion(%g), kind=kCustom, calls=%begin
  %y = bf16[512,128]{1,0:S(1)} fusion(%start, %x), kind=kOutput, calls=%beside
  %done = f32[1000,1000]{1,0:S(1)} fusion(%start), kind=kCustom, calls=%end
  ROOT %far = f32[1000,1000]{1,0} copy(%done)
}
"""


def test_collective_in_a_chain_ends_where_the_module_waits():
  found = roofline.estimate(HloText(CHAIN), V5E, 64)
  product, ring = 2 * 512 * 128 * 128 / 197e12, 2 * 3 / 4 * 4e6 / 1e11
  seconds = {kind: part.seconds for kind, part in found.parts.items()}
  assert seconds == pytest.approx(
    {
      'products: head, loss and optimiser': product,
      'collectives, not hidden': ring - product,
      'copies: head, loss and optimiser': 4e6 / 819e9,
    }
  )


@pytest.mark.parametrize(
  ('collective', 'seconds'),
  [
    (Collective('all-reduce', 10**8, 1, 4, 'ici'), 1.5e8 / 1e11),
    (Collective('all-gather', 4 * 10**7, 1, 4, 'ici'), 3e7 / 1e11),
    (Collective('collective-permute', 10**7, 1, 2, 'ici'), 1e7 / 1e11),
    (Collective('all-reduce', 10**6, 1, 2, 'dcn'), 1e6 / 3.125e9),
    (Collective('all-reduce', 10**6, 1, 1, 'ici'), 0.0),
  ],
)
def test_seconds_of_collectives(collective, seconds):
  assert roofline.collective_seconds(collective, V5E) == pytest.approx(seconds)


def test_kernels_fill_the_unit_by_their_head_width():
  text = """\
HloModule jit_step, is_scheduled=true

ENTRY %main (q: bf16[16,512,768]) -> bf16[16,512,768] {
  %q = bf16[16,512,768]{2,1,0:S(1)} parameter(0)
  ROOT %k = bf16[16,512,768]{2,1,0:S(1)} custom-call(%q), \
custom_call_target="tpu_custom_call", backend_config={"cost_estimate":\
{"flops":"197000000000","bytes_accessed":"8"}}
}
"""
  for width, seconds in ((64, 2e-3), (128, 1e-3), (96, 1e-3 * 128 / 96)):
    found = roofline.estimate(HloText(text), V5E, width)
    assert found.step_seconds == pytest.approx(seconds)
    assert list(found.parts) == ['kernels']
  wide = dataclasses.replace(V5E, devices=[Device('TPU v6 lite')])
  found = roofline.estimate(HloText(text), wide, 64)
  assert found.step_seconds == pytest.approx(197e9 / 918e12 * 4)
  unknown = dataclasses.replace(V5E, devices=[Device('cpu')])
  assert roofline.estimate(HloText(text), unknown, 64) is None


def test_utilisation_of_an_estimate():
  """The chip reaches 2e14 FLOP/s; a tenth of the model FLOPs is masked."""
  found = compiled_steps.made_up(
    memory=out_of_memory.HbmUse(1, 1, 1, 1), model_flops=2e12
  )
  assert found.step_seconds == 0.04
  assert found.utilisation(found.model_flops) == pytest.approx(0.25)
  assert found.utilisation(found.causal_flops) == pytest.approx(0.225)


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
