"""The step compiled for TPUs, with libtpu and without a TPU.

`make tpu` runs these. libtpu lets one process of a machine compile at a time,
so they run one after another in this process. Skips without libtpu.
"""

import importlib.util
import json

import jax
import pytest

from gpt1_jax.compiler import executable, hlo_cost, out_of_memory
from gpt1_jax.compiler.hlo_text import HloText
from gpt1_jax.model import models
from gpt1_jax.train import chips, losses
from tests.support import compiled_steps
from tests.support.compiled_steps import JSON_KEYS, VOCAB, compile_for_tpu

pytestmark = [
  pytest.mark.tpu,
  pytest.mark.slow,
  pytest.mark.skipif(
    importlib.util.find_spec('libtpu') is None,
    reason="needs libtpu: pip install -e '.[test,tpu]'",
  ),
]


def config(**changes):
  return compiled_steps.small(**{**compiled_steps.TPU_SHAPE, **changes})


@pytest.fixture(scope='module')
def looped():
  return compile_for_tpu('v5e:2x2')


def test_products_are_those_of_the_model(looped):
  """A TPU's are convolutions; its loops have no known trip count."""
  found, _, compiled = looped
  assert found.cost.unknown_loops == 0
  again = compiled_steps.second_scores_flops(config(), 4)
  products = compiled_steps.product_flops(compiled)
  assert products == found.model_flops + again
  assert found.model_flops <= found.cost.flops <= 1.06 * found.model_flops


def test_flops_with_loops_once_are_the_compiler_s(looped):
  once = hlo_cost.count(HloText(looped[2].as_text()), loops_once=True)
  flops = looped[2].cost_analysis()['flops']
  assert once.flops == pytest.approx(flops, rel=1e-3)


def test_looped_layers_cost_what_unrolled_layers_cost(looped):
  found = compile_for_tpu('v5e:2x2', **{'model.unroll': 3})[0]
  assert looped[0].cost.flops == pytest.approx(found.cost.flops, rel=0.01)


def test_without_loops_totals_are_the_compiler_s():
  """Unrolled layers, and so few tokens that their logits are in one piece."""
  changes = {'model.unroll': 3, 'model.n_ctx': losses.MIN_CHUNK_TOKENS // 16}
  found, _, compiled = compile_for_tpu('v5e:2x2', **changes)
  xla = compiled.cost_analysis()
  assert found.cost.flops == pytest.approx(xla['flops'], rel=1e-3)
  accessed = xla['bytes accessed']
  assert found.cost.bytes_accessed == pytest.approx(accessed, rel=1e-6)


def test_memory_and_collectives(looped):
  found, program, compiled = looped
  memory = compiled.memory_analysis()
  assert found.memory.arguments == memory.argument_size_in_bytes
  assert found.memory.temp == memory.temp_size_in_bytes
  assert found.memory.peak < found.memory.capacity == 15.75 * 2**30
  model = program.objective.model.config
  # As on the CPU: the gradient once, the embedding's perhaps in two parts.
  extra = (
    compiled_steps.reduced_bytes(found) - 4 * models.num_parameters(model) - 8
  )
  assert 0 <= extra <= 4 * VOCAB * model.n_embd
  assert {c.devices for c in found.cost.collectives} == {4}
  assert 0 < found.utilisation < 1
  assert set(json.loads(json.dumps(found.to_json()))) == JSON_KEYS


def test_fsdp_gathers_parameters_and_scatters_gradients():
  found, program, _ = compile_for_tpu(
    'v5e:2x2', **{'mesh.data': 1, 'mesh.fsdp': 4}
  )
  kinds = {c.kind for c in found.cost.collectives}
  assert {'all-gather', 'reduce-scatter'} <= kinds
  reduced = compiled_steps.reduced_bytes(found)
  scattered = compiled_steps.reduced_bytes(found, 'reduce-scatter')
  # The gradient once; biases and other small parts by all-reduces.
  gradient = 4 * models.num_parameters(program.objective.model.config)
  assert 0 <= reduced + scattered - gradient <= 0.01 * gradient
  assert scattered >= 0.9 * gradient


def test_two_slices_reduce_over_the_network_between_them():
  cost = compile_for_tpu('v5e:2x2', slices=2)[0].cost
  between = [c for c in cost.collectives if c.network == 'dcn']
  assert between
  assert {(c.kind, c.devices) for c in between} == {('all-reduce', 2)}
  assert cost.bound.dcn > 0


@pytest.mark.parametrize(
  ('name', 'devices', 'kind'),
  [
    ('v2:2x2', 8, 'TPU v2'),
    ('v3:2x2', 8, 'TPU v3'),
    ('v4:2x2x1', 4, 'TPU v4'),
    ('v5e:1x1', 1, 'TPU v5 lite'),
    ('v5e:16x16', 256, 'TPU v5 lite'),
    ('v5p:2x2x1', 4, 'TPU v5'),
    ('v6e:2x2', 4, 'TPU v6 lite'),
    ('TPU7x:2x2x1', 8, 'TPU7x'),
  ],
)
def test_topologies_of_every_version(name, devices, kind):
  topology = chips.topology(name, 1)
  assert (len(topology.devices), topology.kind) == (devices, kind)
  assert chips.lookup(kind).hbm_bytes > 2**30


def test_mesh_across_the_torus():
  found = compile_for_tpu('v5e:4x4', **{'mesh.data': 8, 'mesh.tensor': 2})[0]
  assert {c.devices for c in found.cost.collectives} == {2, 8}


def test_another_version():
  found = compile_for_tpu('v4:2x2x1')[0]
  assert found.fits
  assert found.memory.capacity == 30.75 * 2**30


def test_step_that_does_not_fit_is_explained():
  changes = {'model.n_layer': 30_000, 'model.n_embd': 128, 'model.n_head': 2}
  found, _, compiled = compile_for_tpu('v5e:2x2', **changes)
  assert compiled is None
  assert not found.fits
  assert found.memory.peak > found.memory.capacity
  sentence = out_of_memory.explain(
    found.memory, found.buffers, config(**changes)
  )
  assert sentence.count('\n') == 0
  assert 'GiB of the 15.75 GiB it has; ' in sentence
  # libtpu 0.0.40 lists the buffers, 0.0.42 does not here.
  assert ('[30000,4,' in sentence) == bool(found.buffers)
  assert 'config.train.microbatches=2' in sentence


def test_executable_is_written(looped, tmp_path):
  """Loading it takes a TPU: not tried."""
  path = tmp_path / 'step'
  _, program, compiled = looped
  executable.save(str(path), program, compiled, config())
  with path.open('rb') as file:
    header = json.loads(file.readline())
  assert header['device_kind'] == 'TPU v5 lite'
  assert header['mesh'] == '4 data x 1 fsdp x 1 tensor'
  assert header['libtpu_version'] == executable.libtpu_version()
  assert header['jax_version'] == jax.__version__
  assert path.stat().st_size > 100_000
