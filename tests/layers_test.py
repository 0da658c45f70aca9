"""The loops over layers equal autodiff of a plain loop, in less memory."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from gpt1_jax.model import layers

WIDTH, TOKENS = 32, 48


def layer_fn(params, h_TD, layer, shift):
  """Depends on the layer's parameters and on its number."""
  a_TF = jnp.tanh(h_TD.astype(jnp.float32) @ params['up'] + shift * layer)
  out_TD = a_TF @ params['down'] + params['bias']
  return (h_TD + out_TD).astype(h_TD.dtype)


def stack_of(length):
  rng = np.random.default_rng(length)

  def normal(*shape):
    return jnp.asarray(rng.normal(0, 0.1, (length, *shape)), jnp.float32)

  return {
    'up': normal(WIDTH, 2 * WIDTH),
    'down': normal(2 * WIDTH, WIDTH),
    'bias': normal(WIDTH),
  }


def inputs(length, dtype='float32'):
  rng = np.random.default_rng(1)
  h_TD = jnp.asarray(rng.normal(size=(TOKENS, WIDTH)), dtype)
  return stack_of(length), h_TD, jnp.uint32(1)


def total(h_TD):
  return jnp.sum(h_TD.astype(jnp.float32) ** 2)


def recomputed(params, h_TD, layer, shift):
  return jax.checkpoint(layer_fn)(params, h_TD, layer, shift)


def plain(stack, h_TD, shift):
  def one(h_TD, layer_and_params):
    layer, params = layer_and_params
    return recomputed(params, h_TD, layer, shift), None

  numbers = jnp.arange(len(stack['bias']), dtype=jnp.uint32)
  return total(jax.lax.scan(one, h_TD, (numbers, stack))[0])


def looped(stack, h_TD, shift, unroll=1):
  return total(layers.apply(recomputed, unroll, stack, h_TD, shift))


@pytest.mark.parametrize('dtype', ['float32', 'bfloat16'])
@pytest.mark.parametrize(
  ('length', 'unroll'),
  [(1, 1), (3, 1), (5, 2), (layers.TWO_LOOPS_FROM, 1), (13, 3)],
)
def test_value_and_gradients_equal_a_plain_loop(length, unroll, dtype):
  args = inputs(length, dtype)
  found, expected = (
    jax.jit(jax.value_and_grad(f, argnums=(0, 1)))(*args)
    for f in (lambda *x: looped(*x, unroll=unroll), plain)
  )
  assert found[1][1].dtype == jnp.dtype(dtype)
  for x, y in zip(*map(jax.tree.leaves, (found, expected)), strict=True):
    x, y = np.asarray(x, np.float32), np.asarray(y, np.float32)
    scale = np.abs(y).max()
    np.testing.assert_allclose(x / scale, y / scale, rtol=0, atol=1e-6)


@pytest.mark.parametrize('dtype', ['float32', 'bfloat16'])
def test_a_layer_keeps_its_input_and_no_parameter(dtype):
  length = 3
  _, (_, (kept,)) = layers._forward(recomputed, 1, *inputs(length, dtype))
  large = [x for x in kept.arrays if x.size > length]
  # The input of each layer, as its bits if bfloat16.
  assert [x.shape for x in large] == [(length, TOKENS, WIDTH)]
  assert large[0].dtype == {'float32': jnp.float32}.get(dtype, jnp.uint16)


@pytest.mark.parametrize(
  ('length', 'parts'), [(3, [3]), (8, [5, 3]), (12, [7, 5])]
)
def test_deep_stacks_take_two_loops(length, parts):
  loops = layers._loops(stack_of(length))
  assert [len(part) for part in loops] == parts
  np.testing.assert_array_equal(jnp.concatenate(loops), range(length))


def test_gradients_take_no_memory_before_the_loss_is_known():
  """A loss needs as much memory as the gradients, which then reuse it."""
  args = inputs(6)
  size = sum(x.nbytes for x in jax.tree.leaves(args[0]))

  def temporaries(loss):
    def step(stack, h_TD, shift):
      def with_more(stack):
        more_N = jnp.sort(jnp.full(size // 4, loss(stack, h_TD, shift)))
        return jnp.sum(more_N[::3])

      grads = jax.grad(with_more)(stack)
      norm = jnp.sqrt(sum(jnp.sum(g**2) for g in jax.tree.leaves(grads)))
      return jax.tree.map(lambda x, g: x - g / norm, stack, grads)

    program = jax.jit(step, donate_argnums=0).lower(*args).compile()
    return program.memory_analysis().temp_size_in_bytes

  assert temporaries(plain) - temporaries(looped) > 0.8 * size


def test_a_stack_in_bfloat16_is_not_widened_as_a_whole():
  length = 4
  step = jax.jit(jax.grad(looped)).lower(*inputs(length, 'bfloat16'))
  text = step.compile().as_text()
  assert f'u16[{length},{TOKENS},{WIDTH}]' in text
  assert f'f32[{length},{TOKENS},{WIDTH}]' not in text
