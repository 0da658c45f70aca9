"""Estimates step times of modules that are counted by hand."""

import dataclasses

import pytest

from gpt1_jax.compiler import out_of_memory, roofline
from gpt1_jax.compiler.collectives import Collective
from gpt1_jax.compiler.hlo_text import HloText
from gpt1_jax.train import chips
from tests.support import compiled_steps

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
