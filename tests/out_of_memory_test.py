"""Messages of the compiler about memory become one sentence."""

import dataclasses

from gpt1_jax.compiler import out_of_memory
from tests.support import compiled_steps

GIB = 2**30
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


def test_messages_without_a_list_of_buffers():
  """Parses a message of libtpu 0.0.42, and one that states no size."""
  message = (
    'RESOURCE_EXHAUSTED: Ran out of memory on HBM, the total memory required '
    'for HLO temporaries (28.25G) exceeds available HBM (15.75G).'
  )
  size = 28.25 * GIB
  memory = out_of_memory.HbmUse(size, size, None, 15.75 * GIB)
  assert out_of_memory.parse(message) == (memory, ())
  memory = out_of_memory.HbmUse(None, None, None, 5)
  assert out_of_memory.parse('RESOURCE_EXHAUSTED', 5) == (memory, ())


def test_message_becomes_a_sentence():
  memory, buffers = out_of_memory.parse(MESSAGE)
  assert memory == out_of_memory.HbmUse(
    peak=22.5 * GIB,
    temp=round(21.2 * GIB),
    arguments=round(1.3 * GIB),
    capacity=15.75 * GIB,
  )
  config = compiled_steps.small()
  assert out_of_memory.explain(memory, buffers, config) == (
    'does not fit: a device needs at least 22.50 GiB of the 15.75 GiB it has; '
    'the largest buffers are f32[12,16,12,512,512] of h/attn/mul (2.25 GiB, '
    '2 of them), bf16[12,16,512,3072] of add (0.28 GiB); try '
    'config.model.dtype=bfloat16, config.train.microbatches=2, '
    'config.model.remat=dots or full, config.data.batch_size=8, more chips'
  )


def test_one_array_beyond_memory_becomes_a_sentence():
  memory, buffers = out_of_memory.parse(
    'RESOURCE_EXHAUSTED: Allocation (size=80025600000) would exceed memory '
    "(size=8589934592) :: #allocation7 [shape = 'bf16[200000,200000]{1,0:T(8,"
    "128)(2,1)}', space=hbm, size = 0xffffffffffffffff, tag = 'output of "
    "convolution_sine_fusion@{}'] :: <no-hlo-instruction>"
  )
  sentence = out_of_memory.explain(memory, buffers, compiled_steps.small())
  assert sentence.startswith(
    'does not fit: a device needs at least 74.53 GiB of the 8.00 GiB it has; '
    'the largest buffers are bf16[200000,200000] of convolution_sine_fusion '
    '(74.53 GiB); try '
  )


def test_remedies_for_a_state_that_fills_memory():
  memory, _ = out_of_memory.parse(MESSAGE)
  memory = dataclasses.replace(memory, arguments=9 * GIB)
  changes = {'model.remat': 'full', 'model.dtype': 'bfloat16'}
  assert out_of_memory.remedies(memory, compiled_steps.small(**changes)) == [
    'config.train.microbatches=2',
    'config.mesh.fsdp=4 (shards parameters and optimiser state)',
    'config.data.batch_size=8',
    'more chips',
  ]
