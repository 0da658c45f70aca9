"""Counts the collectives of a step compiled for each kind of mesh."""

import math
import re

import jax
import pytest

from gpt1_jax.model import gpt
from tests.support import networks, updates
from tests.support.meshes import make_mesh

COLLECTIVE = re.compile(
  r'= (?P<type>.+?) (?P<kind>all-reduce|all-gather|reduce-scatter|all-to-all|'
  r'collective-permute|collective-broadcast)(-start)?\('
)


def compiled_text(*shape, **settings):
  program = updates.build(updates.UNROLLED, make_mesh(*shape), **settings)
  return program.lower().compile().as_text()


def collectives(*shape, **settings):
  """Returns (kind, shape of an array) of all that moves in a step.

  Groups of one device move nothing and are left out. No collective may be in a
  loop.
  """
  found, inside = [], True
  for line in compiled_text(*shape, **settings).splitlines():
    if header := re.match(r'(ENTRY )?%?[\w.\-]+ \(.*\{$', line):
      inside = header[1] is None
    match = COLLECTIVE.search(line)
    if match and not re.search(r'replica_groups=\{(\{\d+\},?)+\}', line):
      assert not inside
      for dims in re.findall(r'\w\d+\[([\d,]*)\]', match['type']):
        dims = tuple(int(d) for d in dims.split(',') if d)
        found.append((match['kind'], dims))
  return found


def size(found, kind):
  return sum(math.prod(dims) for k, dims in found if k == kind)


# In UNROLLED, the matrix's gradient is summed once for the softmax and once for
# the look-up: the CPU's compiler does not add the two first.
ONCE = gpt.num_parameters(updates.UNROLLED) + 101 * 64


def test_data_reduces_gradients_and_nothing_else():
  found = collectives(8, 1, 1)
  assert {kind for kind, _ in found} == {'all-reduce'}
  assert size(found, 'all-reduce') == ONCE + 2  # loss and weight


def test_microbatches_share_one_reduction():
  """The parts run in a loop; `collectives` refuses one in a loop."""
  found = collectives(8, 1, 1, microbatches=2)
  assert {kind for kind, _ in found} == {'all-reduce'}
  count = gpt.num_parameters(updates.UNROLLED)
  assert size(found, 'all-reduce') == count + 2  # loss and weight


def test_a_divided_optimizer_scatters_gradients_and_gathers_parameters():
  found = collectives(8, 1, 1, microbatches=2, shard_optimizer=True)
  assert {kind for kind, _ in found} == {
    'reduce-scatter',
    'all-gather',
    'all-reduce',
  }
  count = gpt.num_parameters(updates.UNROLLED)
  assert 8 * size(found, 'reduce-scatter') == count
  assert size(found, 'all-gather') == count
  sums = {dims for kind, dims in found if kind == 'all-reduce'}
  assert sums <= {(), (2,)}  # loss, weight, norms: of all and of both layers


@pytest.mark.slow
def test_fsdp_gathers_parameters_and_reduces_gradients():
  """The CPU's compiler sums a block's gradients in full, then slices them."""
  norms = (updates.UNROLLED.n_layer,)  # one of each layer
  found = [x for x in collectives(1, 8, 1) if x[1] != norms]
  assert {kind for kind, _ in found} == {
    'all-gather',
    'all-reduce',
    'all-to-all',
    'reduce-scatter',
  }
  parameters = jax.tree.leaves(networks.fresh(updates.UNROLLED))
  # With or without the layers; axes may be swapped, heads and their width be
  # one. Each device needs all tokens to look up its columns.
  sizes = {math.prod(x.shape[i:]) for x in parameters for i in (0, 1)}
  whole = [dims for kind, dims in found if kind in ('all-gather', 'all-reduce')]
  B, T, V, D = 16, 16, 101, 64
  assert {math.prod(dims) for dims in whole} <= sizes | {1, B * T}
  # For use and, except for the output matrix, again for the gradient. Position
  # embeddings are not gathered, nor is the matrix for the look-up.
  gathered = size(found, 'all-gather')
  count = gpt.num_parameters(updates.UNROLLED)
  assert gathered <= 2 * count - V * D - 2 * T * D + B * T
  scalars = sum(dims == () for _, dims in found)
  assert size(found, 'all-reduce') - scalars == count - V * D - T * D
  assert 8 * size(found, 'reduce-scatter') == V * D
  # The embedded tokens forward, their gradient backward.
  assert 8 * size(found, 'all-to-all') == 2 * B * T * D


@pytest.mark.slow
def test_tensor_reduces_the_outputs_of_a_block():
  found = collectives(1, 1, 4)
  assert {kind for kind, _ in found} == {'all-reduce', 'all-gather'}
  B, T, D, L = 16, 16, 64, 2
  sums = [dims for kind, dims in found if kind == 'all-reduce' and dims]
  # Two a block forward, two backward; the gradient of the softmax's input.
  states = [dims for dims in sums if math.prod(dims) == B * T * D]
  assert len(states) == 4 * L + 1
  # The softmax: its largest, its sum, the logit of the target.
  # The norms by layer, of kernels divided over the devices, are not counted.
  norms = [(L,)]
  others = sorted(dims for dims in sums if dims not in [*states, *norms])
  assert others[:3] == [(B, T)] * 3
  # XLA of jax 0.12 divides the embedding's scatter among the devices as well.
  assert others[3:] in ([], [(26, 64)])
  # The matrix's gradient, in rows that divide by 4.
  gathers = [dims for kind, dims in found if kind == 'all-gather']
  assert gathers == [(104, D)]


@pytest.mark.slow
def test_constraints_are_in_the_compiled_text():
  text = compiled_text(2, 2, 2)
  assert 'f32[4,16,64]' in text  # a quarter of the batch
  assert 'f32[4,16,3,2,16]' in text  # and half the heads
  assert 'f32[4,16,128]' in text  # and half the feed-forward
  assert 'f32[4,16,51]' in text  # and half the vocabulary, padded
  for whole in ('f32[16,16,64]', 'f32[16,16,3,', '[16,16,256]', ',16,101]'):
    assert whole not in text
