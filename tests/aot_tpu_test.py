"""The step compiled for TPUs, with libtpu and no TPU: what `make tpu` runs.

libtpu lets one process of a machine compile at a time, so these tests run one
after another, in this process. Skips without libtpu.
"""

import importlib.util
import json

import jax
import pytest

from gpt1_jax.compiler import compiled, executable, hlo, hlo_cost, out_of_memory
from gpt1_jax.model import models
from gpt1_jax.train import chips, losses, pretraining
from tests import compiled_test

pytestmark = [
  pytest.mark.tpu,
  pytest.mark.slow,
  pytest.mark.skipif(
    importlib.util.find_spec('libtpu') is None,
    reason="needs libtpu: pip install -e '.[test,tpu]'",
  ),
]
VOCAB = 500


def config(**changes):
  """Small, in bfloat16, with widths that fill the matrix unit.

  Attention is plain and nothing is taken anew, so that all products are there
  to be counted; flash_tpu_test has the kernel.
  """
  shape = {
    'model.n_layer': 3,
    'model.n_embd': 256,
    'model.n_head': 4,
    'model.n_ctx': 128,
    'model.dtype': 'bfloat16',
    'model.attention': 'plain',
    'model.remat': 'none',
    'data.batch_size': 16,
  }
  return compiled_test.small(**{**shape, **changes})


def compile_for(topology, slices=1, **changes):
  return compiled.compile_config(
    config(**changes), chips.topology(topology, slices), VOCAB, 10
  )


@pytest.fixture(scope='module')
def looped():
  return compile_for('v5e:2x2')


def test_the_products_are_the_model_s(looped):
  """A TPU's are convolutions, its loops know no trip count of their own."""
  figures, (_, built) = looped
  program = hlo.Program(built.as_text())
  assert program.unknown_loops() == 0
  assert compiled_test.products(program) == compiled_test.executed(
    figures, config(), 4
  )
  assert figures.model_flops <= figures.flops <= 1.06 * figures.model_flops


def test_flops_are_the_compiler_s_but_for_the_loops(looped):
  built = looped[1][1]
  once = hlo_cost.of(hlo.Program(built.as_text()), once=True)
  assert once.flops == pytest.approx(built.cost_analysis()['flops'], rel=1e-3)


def test_looped_layers_cost_what_unrolled_layers_cost(looped):
  figures, _ = compile_for('v5e:2x2', **{'model.unroll': 3})
  assert looped[0].flops == pytest.approx(figures.flops, rel=0.01)


def test_without_a_loop_all_is_as_the_compiler_counts():
  """The layers unrolled, and the logits of so few tokens held at once."""
  changes = {'model.unroll': 3, 'model.n_ctx': losses.LEAST_TOKENS // 16}
  figures, (_, built) = compile_for('v5e:2x2', **changes)
  found = built.cost_analysis()
  assert figures.flops == pytest.approx(found['flops'], rel=1e-3)
  assert figures.bytes_accessed == pytest.approx(
    found['bytes accessed'], rel=1e-6
  )


def test_memory_and_collectives(looped):
  figures, (program, built) = looped
  memory = built.memory_analysis()
  assert figures.hbm_argument_bytes == memory.argument_size_in_bytes
  assert figures.hbm_temp_bytes == memory.temp_size_in_bytes
  assert figures.hbm_peak_bytes < figures.hbm_capacity_bytes == 15.75 * 2**30
  parameters = models.num_parameters(program.model.config)
  reduced = sum(
    c['bytes'] * c['count']
    for c in figures.collectives
    if c['kind'] == 'all-reduce'
  )
  # As on the CPU: the gradient once, the embedding's perhaps in two parts.
  embedding = VOCAB * program.model.config.n_embd
  assert 0 <= reduced - 4 * parameters - 8 <= 4 * embedding
  assert {c['devices'] for c in figures.collectives} == {4}
  assert 0 < figures.estimated_utilisation < 1
  assert set(json.loads(json.dumps(figures.to_json()))) == compiled_test.KEYS


def test_parameters_spread_over_fsdp_are_gathered_and_scattered():
  figures, (program, _) = compile_for(
    'v5e:2x2', **{'mesh.data': 1, 'mesh.fsdp': 4}
  )
  kinds = {c['kind'] for c in figures.collectives}
  assert {'all-gather', 'reduce-scatter'} <= kinds
  reduced = {
    kind: sum(
      c['bytes'] * c['count'] for c in figures.collectives if c['kind'] == kind
    )
    for kind in ('all-reduce', 'reduce-scatter')
  }
  # The gradient once, biases and what else is small by all-reduces.
  gradient = 4 * models.num_parameters(program.model.config)
  assert 0 <= sum(reduced.values()) - gradient <= 0.01 * gradient
  assert reduced['reduce-scatter'] >= 0.9 * gradient


def test_two_slices_reduce_over_the_network_between_them():
  figures, _ = compile_for('v5e:2x2', slices=2)
  between = [c for c in figures.collectives if c['network'] == 'dcn']
  assert between
  assert {(c['kind'], c['devices']) for c in between} == {('all-reduce', 2)}
  assert figures.seconds['dcn'] > 0


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
def test_slices_of_every_version(name, devices, kind):
  topology = chips.topology(name, 1)
  assert (len(topology.devices), topology.kind) == (devices, kind)
  assert chips.of(kind).hbm_bytes > 2**30


def test_a_mesh_that_cuts_across_the_torus():
  figures, _ = compile_for('v5e:4x4', **{'mesh.data': 8, 'mesh.tensor': 2})
  assert figures.fits
  assert {c['devices'] for c in figures.collectives} == {2, 8}


def test_another_version():
  figures, _ = compile_for('v4:2x2x1')
  assert figures.fits
  assert figures.hbm_capacity_bytes == 30.75 * 2**30


def test_out_of_memory_is_a_sentence():
  changes = {'model.n_layer': 30_000, 'model.n_embd': 128, 'model.n_head': 2}
  figures, (_, built) = compile_for('v5e:2x2', **changes)
  assert built is None
  assert not figures.fits
  assert figures.hbm_peak_bytes > figures.hbm_capacity_bytes
  sentence = out_of_memory.sentence(
    figures, pretraining.settings(config(**changes))
  )
  assert sentence.count('\n') == 0
  assert 'GiB of the 15.75 GiB it has; ' in sentence
  # libtpu 0.0.40 lists the buffers, 0.0.42 does not here.
  assert ('[30000,4,' in sentence) == bool(figures.buffers)
  assert 'config.train.microbatches=2' in sentence


def test_an_executable_is_written(looped, tmp_path):
  """Loading it takes a TPU: not tried."""
  path = tmp_path / 'step'
  executable.save(str(path), *looped[1], config())
  with path.open('rb') as file:
    header = json.loads(file.readline())
  assert header['device_kind'] == 'TPU v5 lite'
  assert header['mesh'] == [4, 1, 1]
  assert header['libtpu'] == executable.libtpu_version()
  assert header['jax'] == jax.__version__
  assert path.stat().st_size > 100_000
