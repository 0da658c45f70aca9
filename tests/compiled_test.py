"""Ahead-of-time compilation: figures of programs whose figures are known.

Hand-written text and small programs compiled for eight CPU devices; those
compiled for TPUs are in `aot_tpu_test`.
"""

import dataclasses
import json
import os
import pathlib
import subprocess
import sys

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax.sharding import PartitionSpec

from configs import pretrain as config_file
from gpt1_jax.compiler import compiled, hlo, hlo_cost, out_of_memory
from gpt1_jax.errors import UserError
from gpt1_jax.model import causal, models
from gpt1_jax.train import chips, pretraining, telemetry

ROOT = pathlib.Path(__file__).resolve().parents[1]
VOCAB = 500
KEYS = {
  'fits',
  'hbm_peak_bytes',
  'hbm_temp_bytes',
  'hbm_argument_bytes',
  'hbm_capacity_bytes',
  'flops',
  'model_flops',
  'bytes_accessed',
  'collectives',
  'compile_seconds',
  'estimated_step_seconds',
  'estimated_utilisation',
}

# In the manner of a TPU's: a loop of 12 over a product written as a
# convolution, tiles, VMEM, a sum over two of four devices.
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


def test_a_text_costed_by_hand():
  program = hlo.Program(TEXT)
  cost = hlo_cost.of(program)
  # A trip: 2 x 8 x 8 x 16 of the product, 64 of the sum over devices, 1 of the
  # counter; the condition, once more than the body, 1.
  assert cost.flops == 12 * (2048 + 64 + 1) + 13
  # A row of eight or sixteen fills a tile's 128 lanes; scalars are not padded.
  # A trip reads 8 x 128 of the weights in f32, x in bf16 (in VMEM) and the
  # counter, writes and sums y, adds to the counter.
  tile, scalar = 8 * 128 * 4, 4
  in_hbm = (tile + scalar + tile) + 2 * tile + 3 * scalar
  condition = 2 * scalar + 1
  assert cost.hbm_bytes == 12 * in_hbm + 13 * condition
  assert cost.bytes == cost.hbm_bytes + 12 * (8 * 128 * 2)
  once = hlo_cost.of(program, once=True)
  assert once.flops == 2048 + 64 + 1 + 1
  assert program.unknown_loops() == 0
  (reduction,) = program.collectives()
  assert reduction == hlo.Collective(
    'all-reduce', 8 * 8 * 4, 12, 2, 'ici', ((0, 1), (2, 3))
  )


def test_a_loop_of_unknown_length_is_said():
  program = hlo.Program(TEXT.replace('direction=LT', 'direction=NE'))
  assert program.unknown_loops() == 1
  assert program.collectives()[0].count == 1


@pytest.mark.parametrize(
  ('spelling', 'groups'),
  [
    ('replica_groups={{0,2},{1,3}}', ((0, 2), (1, 3))),
    ('replica_groups=[2,2]<=[4]', ((0, 1), (2, 3))),
    ('replica_groups=[2,2]<=[2,2]T(1,0)', ((0, 2), (1, 3))),
    ("replica_groups=mesh['a'=2,'b'=2] {'a'}", ((0, 2), (1, 3))),
    ("replica_groups=mesh['a'=2,'b'=2] {'a','b'}", ((0, 1, 2, 3),)),
    ("replica_groups=mesh['a'=4] {'a':(2)2}", ((0, 1), (2, 3))),
    ("replica_groups=mesh['a'=4] {'a':(1)2}", ((0, 2), (1, 3))),
    ('replica_groups={}', ((0, 1, 2, 3),)),
    ('', ((0, 1, 2, 3),)),
  ],
)
def test_groups_in_every_spelling(spelling, groups):
  assert hlo.groups(f'%x), channel_id=1, {spelling}, dims={{0}}', 4) == groups


def test_what_a_tpu_makes_of_collectives():
  """Chains, reduce-scatters in disguise, and sums between slices."""
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
  found = hlo.Program(text).collectives()
  assert [(c.kind, c.bytes, c.devices, c.network) for c in found] == [
    ('reduce-scatter', 4096, 4, 'ici'),
    ('all-reduce', 1024, 2, 'dcn'),
    ('all-gather', 4096, 4, 'ici'),
  ]


def test_what_runs_on_the_cores_beside():
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
  program = hlo.Program(text)
  (found,) = program.collectives()
  assert found.kind == 'all-reduce'
  assert (found.bytes, found.count, found.devices) == (8 * 128 * 4, 1, 4)
  alone = hlo.Program(text.replace('%called', '%other', 1))
  assert alone.collectives() == []
  # Read once and written once, whoever waits for it.
  assert hlo_cost.of(program).bytes == 2 * 8 * 128 * 4


def text_of(function, *shapes):
  arguments = [jax.ShapeDtypeStruct(s, jnp.float32) for s in shapes]
  return hlo.Program(jax.jit(function).lower(*arguments).compile().as_text())


def test_products_in_a_loop_are_counted_as_often_as_they_run():
  def looped(x, w):
    return jax.lax.scan(lambda x, w: (x @ w, None), x, w)[0]

  def unrolled(x, w):
    for i in range(5):
      x = x @ w[i]
    return x

  expected = 5 * 2 * 32 * 48 * 48
  for function in (looped, unrolled):
    program = text_of(function, (32, 48), (5, 48, 48))
    flops = hlo_cost.of(program).flops
    assert expected <= flops <= expected * 1.001  # the loop's counter
    assert program.unknown_loops() == 0


def test_collectives_of_programs_for_eight_devices():
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
  text = step.lower(jax.ShapeDtypeStruct((8, 24), jnp.float32)).compile()
  found = {c.kind: c for c in hlo.Program(text.as_text()).collectives()}
  own = 4 * 6 * 4
  summed = found['all-reduce']
  assert (summed.bytes, summed.count, summed.devices) == (own, 3, 2)
  assert summed.groups == ((0, 4), (1, 5), (2, 6), (3, 7))
  whole = found['all-gather']
  assert (whole.bytes, whole.count, whole.devices) == (4 * own, 1, 4)
  assert whole.groups == ((0, 1, 2, 3), (4, 5, 6, 7))
  scattered = found['reduce-scatter']
  assert (scattered.bytes, scattered.count, scattered.devices) == (own, 1, 4)
  moved = found['collective-permute']
  assert (moved.bytes, moved.count) == (own, 1)


def small(**changes):
  """The configuration of a small step, with dotted changes."""
  config = config_file.get_config('tiny')
  base = {'model.n_layer': 4, 'model.unroll': 1, 'model.remat': 'none'}
  config.update_from_flattened_dict({**base, 'data.path': '', **changes})
  return config.to_dict()


@pytest.fixture(scope='module')
def local():
  return chips.topology('local', 1)


def products(program: hlo.Program) -> float:
  """FLOPs of the products alone."""
  return sum(
    count * hlo_cost.product_flops(program.computations[where], i)
    for where, i, count in program.walk()
    if i.opcode in ('dot', 'convolution')
  )


@pytest.fixture(scope='module')
def looped(local):
  return compiled.compile_config(small(), local, VOCAB, 10)


def executed(figures: compiled.Figures, config, devices: int) -> float:
  """The model's FLOPs, and those of the scores, which the step makes twice.

  Six products of an attention block are the model's, one of them the scores;
  the context is a single block, so none of it is left out.
  """
  model = config['model']
  tokens = config['data']['batch_size'] * model['n_ctx']
  assert model['n_ctx'] <= causal.BLOCK
  scores = 2 * model['n_layer'] * model['n_ctx'] * model['n_embd']
  return figures.model_flops + scores * tokens / devices


def test_the_step_s_products_are_the_model_s(looped):
  """Layers, chunks of the loss and devices: to the last FLOP."""
  figures, (_, built) = looped
  assert products(hlo.Program(built.as_text())) == executed(
    figures, small(), jax.device_count()
  )
  assert figures.model_flops <= figures.flops <= 1.2 * figures.model_flops


@pytest.mark.slow
def test_looped_layers_cost_what_unrolled_layers_cost(looped, local):
  """FLOPs within 1%: the loop's own arithmetic, and fusions' repetitions.

  In one piece of code the compiler finds the scores made a second time.
  """
  unrolled, (_, built) = compiled.compile_config(
    small(**{'model.unroll': 4}), local, VOCAB, 10
  )
  assert products(hlo.Program(built.as_text())) == unrolled.model_flops
  again = executed(unrolled, small(), jax.device_count()) - unrolled.model_flops
  assert looped[0].flops - again == pytest.approx(unrolled.flops, rel=0.01)
  compiler_s = built.cost_analysis()['flops']
  assert hlo_cost.of(hlo.Program(built.as_text()), once=True).flops == (
    pytest.approx(compiler_s, rel=0.01)
  )


def test_the_figures_of_a_step(looped):
  figures, (program, built) = looped
  memory = built.memory_analysis()
  assert figures.fits
  assert figures.hbm_argument_bytes == memory.argument_size_in_bytes
  assert figures.hbm_temp_bytes == memory.temp_size_in_bytes
  found = figures.to_json()
  assert set(found) == KEYS
  assert json.loads(json.dumps(found)) == found
  assert found['estimated_step_seconds'] is None  # a CPU: no peak is stated
  parameters = models.num_parameters(program.model.config)
  reduced = sum(
    c['bytes'] * c['count']
    for c in found['collectives']
    if c['kind'] == 'all-reduce'
  )
  # The gradient (that of the embedding in its two parts, or their sum), the
  # loss and its weight, in float32.
  embedding = VOCAB * program.model.config.n_embd
  assert 0 <= reduced - 4 * parameters - 8 <= 4 * embedding


@pytest.mark.slow
def test_recomputed_layers_are_counted(looped, local):
  figures, _ = compiled.compile_config(
    small(**{'model.remat': 'full'}), local, VOCAB, 10
  )
  config = looped[1][0].model.config
  layers = dataclasses.replace(config, vocab_size=1)
  tokens = 16 * config.n_ctx / 8
  forward = models.flops_per_token(layers) / 3 * tokens
  added = figures.flops - looped[0].flops
  assert added == pytest.approx(forward, rel=0.15)


def test_the_roofline_by_hand():
  """v5e, four chips in a square: two of four links, 50 GB/s each."""
  chip = chips.of('TPU v5 lite')
  topology = chips.Topology('v5e:2x2', 1, [], (2, 2))
  assert dataclasses.replace(topology, layout=(4, 16)).layout == (4, 16)
  rows = [
    ('all-reduce', 100_000_000, 2, 4, 'ici'),
    ('all-gather', 40_000_000, 1, 4, 'ici'),
    ('collective-permute', 10_000_000, 1, 2, 'ici'),
    ('all-reduce', 1_000_000, 1, 2, 'dcn'),
  ]
  names = ('kind', 'bytes', 'count', 'devices', 'network')
  seconds = compiled.roofline(
    hlo_cost.Cost(1.97e12, 5e9, 8.19e9),
    [dict(zip(names, row, strict=True)) for row in rows],
    chip,
    links=2,
  )
  assert seconds['compute'] == pytest.approx(0.01)
  assert seconds['hbm'] == pytest.approx(0.01)
  assert seconds['ici'] == pytest.approx((2 * 1.5e8 + 3e7 + 1e7) / 1e11)
  assert seconds['dcn'] == pytest.approx(1e6 / 3.125e9)
  figures = compiled.Figures(
    fits=True,
    hbm_peak_bytes=1,
    hbm_temp_bytes=1,
    hbm_argument_bytes=1,
    hbm_capacity_bytes=1,
    flops=1.97e12,
    model_flops=0.985e12,
    bytes_accessed=5e9,
    hbm_bytes=8.19e9,
    collectives=[],
    compile_seconds=1.0,
    seconds={'compute': 0.01, 'hbm': 0.04},
  )
  assert figures.estimated_step_seconds == 0.04
  assert figures.estimated_utilisation == pytest.approx(0.5 * 0.25)


@pytest.mark.parametrize(
  ('kind', 'layout', 'links'),
  [
    ('TPU v5 lite', (2, 2), 2),
    ('TPU v5 lite', (16, 16), 4),
    ('TPU v5 lite', (8, 16), 3),
    ('TPU v4', (4, 4, 4), 6),
    ('TPU v4', (2, 2, 1), 2),
    ('cpu', (8,), 0),
  ],
)
def test_links_of_a_slice(kind, layout, links):
  @dataclasses.dataclass
  class Device:
    device_kind: str

  assert chips.Topology('x', 1, [Device(kind)], layout).links == links


def test_one_table_of_peaks():
  assert chips.of('TPU v5 lite').flops == 197e12
  assert chips.of('TPU v5p').flops == chips.of('TPU v5').flops == 459e12
  assert chips.of('TPU v3').flops == 61.5e12  # half a chip
  assert chips.of('TPU7x').hbm_bandwidth == 3690e9
  assert chips.of('NVIDIA H100 80GB HBM3').flops == 989e12
  assert chips.of('cpu') is None
  assert telemetry.peak_flops() is None


@pytest.mark.parametrize('name', ['v5e', 'v5e:', '2x2', 'v5e:2x2:1'])
def test_what_is_no_topology_is_refused(name):
  with pytest.raises(UserError, match=r'such as v5e:4x4'):
    chips.topology(name, 1)
  with pytest.raises(UserError, match=r'slices are 1 or more'):
    chips.topology('v5e:2x2', 0)


@pytest.mark.parametrize(
  ('error', 'message'),
  [
    ('JAX TPU support not installed; see', r"pip install '\.\[tpu\]'"),
    ('ABORTED: accessing libtpu multi-process lockfile', 'only one can'),
    ('INVALID_ARGUMENT: not divisible by', 'topology=v5e:2x2: INVALID_ARG'),
  ],
)
def test_what_libtpu_refuses_is_one_line(monkeypatch, error, message):
  def refuse(**kwargs):
    raise RuntimeError(error)

  monkeypatch.setattr(chips.topologies, 'get_topology_desc', refuse)
  with pytest.raises(UserError, match=message):
    chips.topology('v5e:2x2', 1)


# In the format of libtpu 0.0.40.
MESSAGE = """\
RESOURCE_EXHAUSTED: E1000: CompileTimeHbmOom: XLA:TPU compile permanent error. \
Ran out of memory in memory space hbm. Used 22.50G of 15.75G hbm. Exceeded hbm \
capacity by 6.75G.

Total hbm usage >= 22.75G:
    reserved        258.00M
    program          21.20G
    arguments         1.30G

Output size 1.30G; shares 1.30G with arguments.

Program hbm requirement 21.20G:
    HLO temp         21.20G (100.0% utilization: Unpadded (21.20G) Padded \
(21.20G), 0.0% fragmentation (0B))

  Largest program allocations in hbm:

  1. Size: 2.25G
     Operator: op_name="jit(step)/jvp(GPT)/while/body/closed_call/h/attn/mul" \
stack_frame_id=4
     Shape: f32[12,16,12,512,512]{4,3,2,1,0:T(8,128)}
     Unpadded size: 2.25G
     XLA label: fusion.1 = fusion(x), kind=kLoop
     Allocation type: HLO temp
     ==========================

  2. Size: 2.25G
     Operator: op_name="jit(step)/jvp(GPT)/while/body/closed_call/h/attn/exp"
     Shape: f32[12,16,12,512,512]{4,3,2,1,0:T(8,128)}
     Unpadded size: 2.25G
     XLA label: fusion.2 = fusion(x), kind=kLoop
     Allocation type: HLO temp
     ==========================

  3. Size: 288.00M
     Operator: op_name="jit(step)/jvp(GPT)/add"
     Shape: bf16[12,16,512,3072]{3,2,1,0:T(8,128)(2,1)}
     Unpadded size: 288.00M
     XLA label: fusion.3 = fusion(x), kind=kLoop
     Allocation type: HLO temp
     ==========================
"""


def test_out_of_memory_without_a_list_of_buffers():
  """In the format of libtpu 0.0.42."""
  told = out_of_memory.parse(
    'RESOURCE_EXHAUSTED: Ran out of memory on HBM, the total memory required '
    'for HLO temporaries (28.25G) exceeds available HBM (15.75G).'
  )
  assert told['hbm_peak_bytes'] == 28.25 * 2**30
  assert told['hbm_capacity_bytes'] == 15.75 * 2**30
  assert told['hbm_temp_bytes'] == told['hbm_peak_bytes']
  assert told['hbm_argument_bytes'] is None
  assert told['buffers'] == ()


def test_out_of_memory_is_a_sentence():
  told = out_of_memory.parse(MESSAGE)
  assert told['hbm_peak_bytes'] == 22.5 * 2**30
  assert told['hbm_capacity_bytes'] == 15.75 * 2**30
  assert told['hbm_argument_bytes'] == round(1.3 * 2**30)
  assert told['hbm_temp_bytes'] == round(21.2 * 2**30)
  figures = compiled.not_fitting(told, 1e12, 9.0)
  settings = pretraining.settings(small(**{'model.remat': 'none'}))
  assert out_of_memory.sentence(figures, settings) == (
    'does not fit: a device needs at least 22.50 GiB of the 15.75 GiB it has; '
    'the largest buffers are f32[12,16,12,512,512] of h/attn/mul (2.25 GiB, '
    '2 of them), bf16[12,16,512,3072] of add (0.28 GiB); what would help: '
    'config.model.dtype=bfloat16, config.train.microbatches=2, '
    'config.model.remat=dots or full, config.data.batch_size=8, more chips'
  )
  assert set(figures.to_json()) == KEYS
  assert figures.to_json()['flops'] is None


def test_one_array_beyond_memory_is_a_sentence_too():
  told = out_of_memory.parse(
    'RESOURCE_EXHAUSTED: Allocation (size=80025600000) would exceed memory '
    "(size=8589934592) :: #allocation7 [shape = 'bf16[200000,200000]{1,0:T(8,"
    "128)(2,1)}', space=hbm, size = 0xffffffffffffffff, tag = 'output of "
    "convolution_sine_fusion@{}'] :: <no-hlo-instruction>"
  )
  figures = compiled.not_fitting(told, 1e12, 9.0)
  sentence = out_of_memory.sentence(figures, pretraining.settings(small()))
  assert sentence.startswith(
    'does not fit: a device needs at least 74.53 GiB of the 8.00 GiB it has; '
    'the largest buffers are bf16[200000,200000] of convolution_sine_fusion '
    '(74.53 GiB); what would help: '
  )


def test_remedies_for_a_state_that_fills_memory():
  told = out_of_memory.parse(MESSAGE) | {'hbm_argument_bytes': 9 * 2**30}
  figures = compiled.not_fitting(told, 1e12, 9.0)
  changes = {'model.remat': 'full', 'model.dtype': 'bfloat16'}
  settings = pretraining.settings(small(**changes))
  assert out_of_memory.remedies(figures, settings) == [
    'config.train.microbatches=2',
    'config.mesh.fsdp=4 (spreads parameters and optimiser)',
    'config.data.batch_size=8',
    'more chips',
  ]


@pytest.mark.slow
def test_the_command():
  """As a user runs it, on this machine's devices; JSON is the last line."""
  done = subprocess.run(
    [
      sys.executable,
      'launch/aot_compile.py',
      '--config=configs/pretrain.py:tiny',
      '--config.model.n_layer=1',
      '--topology=local',
      '--vocab_size=300',
      '--json',
    ],
    cwd=ROOT,
    env={**os.environ, 'PYTHONPATH': str(ROOT)},
    capture_output=True,
    text=True,
    check=False,
  )
  assert done.returncode == 0, done.stderr
  *table, last = done.stdout.splitlines()
  found = json.loads(last)
  assert set(found) == KEYS
  assert found['fits'] is True
  assert 'FLOPs / model FLOPs' in '\n'.join(table)
  assert 'The bound assumes' in '\n'.join(table)
  assert np.isfinite(found['bytes_accessed'])
