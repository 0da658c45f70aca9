"""Compares costs and collectives of compiled programs with hand counts.

Programs are written by hand, or small and compiled for eight CPU devices.
"""

import jax
import jax.numpy as jnp
import pytest
from jax.sharding import PartitionSpec

from gpt1_jax.compiler import collectives, hlo_cost
from gpt1_jax.compiler.collectives import Collective
from gpt1_jax.compiler.hlo_text import HloText

# As a TPU's compiler writes it: a loop of 12 over a product, written as a
# convolution; tiles, VMEM, and a sum over two of four devices.
TEXT = """\
HloModule jit_step, is_scheduled=true, num_partitions=4

%add (a: f32[], b: f32[]) -> f32[] {
  %a = f32[] parameter(0)
  %b = f32[] parameter(1)
  ROOT %sum = f32[]{:T(128)} add(%a, %b)
}

%fused (p0: f32[12,8,16], p1: s32[], p2: bf16[8,16]) -> f32[8,8] {
  %p0 = f32[12,8,16]{2,1,0:T(8,128)} parameter(0)
  %p1 = s32[]{:T(128)} parameter(1)
  %p2 = bf16[8,16]{1,0:T(8,128)(2,1)S(1)} parameter(2)
  %zero = s32[]{:T(128)} constant(0)
  %part = f32[1,8,16]{2,1,0:T(8,128)} dynamic-slice(%p0, %p1, %zero, %zero), \
dynamic_slice_sizes={1,8,16}
  %flat = f32[8,16]{1,0:T(8,128)} bitcast(%part)
  ROOT %conv = f32[8,8]{1,0:T(8,128)} convolution(%flat, %p2), \
dim_labels=bf_oi->bf
}

%body (s: (s32[], f32[12,8,16], f32[8,8])) -> (s32[], f32[12,8,16], f32[8,8]) {
  %s = (s32[]{:T(128)}, f32[12,8,16]{2,1,0:T(8,128)}, /*index=2*/f32[8,8]\
{1,0:T(8,128)}) parameter(0)
  %i = s32[]{:T(128)} get-tuple-element(%s), index=0
  %w = f32[12,8,16]{2,1,0:T(8,128)} get-tuple-element(%s), index=1
  %x = bf16[8,16]{1,0:T(8,128)(2,1)S(1)} constant({...})
  %one = s32[]{:T(128)} constant(1)
  %next = s32[]{:T(128)} add(%i, %one)
  %y = f32[8,8]{1,0:T(8,128)} fusion(%w, %i, %x), kind=kOutput, calls=%fused
  %z = f32[8,8]{1,0:T(8,128)} all-reduce(%y), channel_id=1, replica_groups=\
mesh['axis_0'=2,'axis_1'=2] {'axis_1'}, to_apply=%add
  ROOT %out = (s32[]{:T(128)}, f32[12,8,16]{2,1,0:T(8,128)}, f32[8,8]\
{1,0:T(8,128)}) tuple(%next, %w, %z)
}

%condition (s: (s32[], f32[12,8,16], f32[8,8])) -> pred[] {
  %s = (s32[]{:T(128)}, f32[12,8,16]{2,1,0:T(8,128)}, f32[8,8]{1,0:T(8,128)}) \
parameter(0)
  %limit = s32[]{:T(128)} constant(12)
  %i = s32[]{:T(128)} get-tuple-element(%s), index=0
  ROOT %lt = pred[]{:T(512)} compare(%i, %limit), direction=LT
}

ENTRY %main (start: (s32[], f32[12,8,16], f32[8,8])) -> f32[8,8] {
  %start = (s32[]{:T(128)}, f32[12,8,16]{2,1,0:T(8,128)}, f32[8,8]\
{1,0:T(8,128)}) parameter(0)
  %loop = (s32[]{:T(128)}, f32[12,8,16]{2,1,0:T(8,128)}, f32[8,8]\
{1,0:T(8,128)}) while(%start), condition=%condition, body=%body
  ROOT %end = f32[8,8]{1,0:T(8,128)} get-tuple-element(%loop), index=2
}
"""


def test_cost_of_a_text_equals_the_count_by_hand():
  hlo = HloText(TEXT)
  cost = hlo_cost.count(hlo)
  # An iteration: 2 x 8 x 8 x 16 of the product, 1 of the counter; the condition
  # runs once more than the body, 1.
  assert cost.flops == 12 * (2048 + 1) + 13
  # A row of eight or sixteen fills a tile's 128 lanes; scalars are not padded.
  # An iteration reads 8 x 128 weights in f32, x in bf16 (in VMEM) and the
  # counter, writes and sums y, adds to the counter.
  tile, scalar = 8 * 128 * 4, 4
  in_hbm = (tile + scalar + tile) + 2 * tile + 3 * scalar
  condition = 2 * scalar + 1
  assert cost.hbm_bytes == 12 * in_hbm + 13 * condition
  assert cost.bytes == cost.hbm_bytes + 12 * (8 * 128 * 2)
  assert hlo_cost.count(hlo, loops_once=True).flops == 2048 + 1 + 1
  assert hlo.count_unknown_loops() == 0
  assert collectives.find(hlo) == [
    Collective('all-reduce', 8 * 8 * 4, 12, 2, 'ici')
  ]


def test_loop_of_unknown_length_is_counted_once():
  hlo = HloText(TEXT.replace('direction=LT', 'direction=NE'))
  assert hlo.count_unknown_loops() == 1
  assert collectives.find(hlo)[0].count == 1


@pytest.mark.parametrize(
  ('spelling', 'size'),
  [
    ('replica_groups={{0,2},{1,3}}', 2),
    ('replica_groups=[2,4]<=[8]', 4),
    ('replica_groups=[2,2]<=[2,2]T(1,0)', 2),
    ("replica_groups=mesh['a'=4,'b'=2] {'a'}", 4),
    ("replica_groups=mesh['a'=2,'b'=4] {'a','b'}", 8),
    ("replica_groups=mesh['a'=4] {'a':(2)2}", 2),
    ('source_target_pairs={{0,1},{1,2}}', 2),
    ('replica_groups={}', 8),
    ('', 8),
  ],
)
def test_group_size_in_every_spelling(spelling, size):
  attributes = f'%x), channel_id=1, {spelling}, dims={{0}}'
  assert collectives.group_size(attributes, 8) == size


def test_chains_disguised_scatters_and_sums_between_slices():
  text = """\
HloModule jit_step, num_partitions=4

%all-reduce-scatter.1 (p: f32[8,128]) -> f32[2,128] {
  %p = f32[8,128]{1,0} parameter(0)
  %sum = f32[8,128]{1,0} all-reduce(%p), channel_id=1, \
replica_groups={{0,1,2,3}}, to_apply=%add
  ROOT %part = f32[2,128]{1,0} slice(%sum), slice={[0:2], [0:128]}
}

%step.1 (p: f32[2,128]) -> f32[8,128] {
  %p = f32[2,128]{1,0} parameter(0)
  ROOT %g = f32[8,128]{1,0} all-gather(%p), channel_id=7, \
replica_groups={{0,1,2,3}}, frontend_attributes={chain_id="0"}
}

%step.2 (p: f32[2,128]) -> f32[8,128] {
  %p = f32[2,128]{1,0} parameter(0)
  ROOT %g = f32[8,128]{1,0} all-gather(%p), channel_id=7, \
replica_groups={{0,1,2,3}}, frontend_attributes={chain_id="0"}
}

ENTRY %main (p: f32[8,128]) -> f32[8,128] {
  %p = f32[8,128]{1,0} parameter(0)
  %own = f32[2,128]{1,0} fusion(%p), kind=kCustom, calls=%all-reduce-scatter.1
  %token = token[] after-all()
  %sent = (f32[2,128]{1,0}, u32[], token[]) send(%own, %token), channel_id=2, \
is_host_transfer=true, frontend_attributes={_xla_megascale_target=\
"{1,2}x{0:3}",_xla_megascale_transfer_type="ALL_REDUCE"}
  %a = f32[8,128]{1,0} fusion(%own), kind=kCustom, calls=%step.1
  ROOT %b = f32[8,128]{1,0} fusion(%own), kind=kCustom, calls=%step.2
}
"""
  assert collectives.find(HloText(text)) == [
    Collective('reduce-scatter', 4096, 1, 4, 'ici'),
    Collective('all-reduce', 1024, 1, 2, 'dcn'),
    Collective('all-gather', 4096, 1, 4, 'ici'),
  ]


def test_collective_on_the_sparse_cores():
  """TPU7x sums gradients in calls to its SparseCores."""
  text = """\
HloModule jit_step, num_partitions=4

%called (p: f32[8,128], t: token[]) -> f32[8,128] {
  %p = f32[8,128]{1,0} parameter(0)
  %t = token[] parameter(1)
  ROOT %sum = f32[8,128]{1,0} all-reduce(%p), channel_id=1, \
replica_groups={{0,1,2,3}}, to_apply=%add
}, execution_thread="sparsecore"

ENTRY %main (p: f32[8,128]) -> f32[8,128] {
  %p = f32[8,128]{1,0} parameter(0)
  %token = token[] after-all()
  %start = ((f32[8,128]{1,0}, token[]), f32[8,128]{1,0}) call-start(%p, \
%token), async_execution_thread="sparsecore", to_apply=%called
  ROOT %done = f32[8,128]{1,0} call-done(%start)
}
"""
  hlo = HloText(text)
  assert collectives.find(hlo) == [
    Collective('all-reduce', 8 * 128 * 4, 1, 4, 'ici')
  ]
  assert collectives.find(HloText(text.replace('%called', '%other', 1))) == []
  # Read once and written once, not again by the instruction that waits.
  assert hlo_cost.count(hlo).bytes == 2 * 8 * 128 * 4


def test_products_in_a_loop_are_counted_in_full():
  def looped(x, w):
    return jax.lax.scan(lambda x, w: (x @ w, None), x, w)[0]

  def unrolled(x, w):
    for i in range(5):
      x = x @ w[i]
    return x

  shapes = [
    jax.ShapeDtypeStruct(s, jnp.float32) for s in ((32, 48), (5, 48, 48))
  ]
  expected = 5 * 2 * 32 * 48 * 48
  for function in (looped, unrolled):
    compiled = jax.jit(function).lower(*shapes).compile()
    hlo = HloText(compiled.as_text())
    assert expected <= hlo_cost.count(hlo).flops <= expected * 1.001  # counter
    assert hlo.count_unknown_loops() == 0


def test_collectives_on_eight_devices():
  mesh = jax.make_mesh(
    (2, 4), ('a', 'b'), axis_types=(jax.sharding.AxisType.Auto,) * 2
  )

  def local(x):  # [4, 6] of [8, 24] on each device
    def body(x, _):
      return jax.lax.psum(x, 'a') * 0.5, None

    x, _ = jax.lax.scan(body, x, None, length=3)
    gathered = jax.lax.all_gather(x, 'b', axis=0)
    part = jax.lax.psum_scatter(x, 'b', scatter_dimension=0)
    moved = jax.lax.ppermute(x, 'b', [(i, (i + 1) % 4) for i in range(4)])
    return gathered.sum(0) + part + moved

  spec = PartitionSpec('a', 'b')
  step = jax.jit(
    jax.shard_map(
      local, mesh=mesh, in_specs=spec, out_specs=spec, check_vma=False
    )
  )
  compiled = step.lower(jax.ShapeDtypeStruct((8, 24), jnp.float32)).compile()
  own = 4 * 6 * 4
  assert set(collectives.find(HloText(compiled.as_text()))) == {
    Collective('all-reduce', own, 3, 2, 'ici'),
    Collective('all-gather', 4 * own, 1, 4, 'ici'),
    Collective('reduce-scatter', own, 1, 4, 'ici'),
    Collective('collective-permute', own, 1, 2, 'ici'),
  }
