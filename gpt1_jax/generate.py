r"""Continues a prompt with a trained run.

  python -m gpt1_jax.generate --workdir=runs/mini --prompt='It was a dark'
  python -m gpt1_jax.generate --workdir=runs/mini --prompt='She said' \
      --num_samples=3 --top_k=40 --temperature=0.8 --seed=1

The rule for long texts: the model sees the last n_ctx tokens.
"""

import functools
import sys

import jax
import jax.numpy as jnp
import numpy as np
from absl import flags

from gpt1_jax import command
from gpt1_jax.data import tokenizer as tokenizer_lib
from gpt1_jax.errors import UserError
from gpt1_jax.model import gpt, models
from gpt1_jax.train import checkpoint

_WORKDIR = flags.DEFINE_string(
  'workdir', None, 'A run of pretrain or finetune.', required=True
)
_PROMPT = flags.DEFINE_string(
  'prompt', '', 'Text to go on from; empty: from a document boundary.'
)
_TOKENS = flags.DEFINE_integer('num_tokens', 100, 'Tokens to add.')
_SAMPLES = flags.DEFINE_integer('num_samples', 1, 'Continuations to make.')
_GREEDY = flags.DEFINE_bool('greedy', False, 'Always the likeliest token.')
_TEMPERATURE = flags.DEFINE_float(
  'temperature', 1.0, 'Below 1: bolder towards the likely; above: wilder.'
)
_TOP_K = flags.DEFINE_integer('top_k', 0, 'Among the k likeliest; 0: all.')
_TOP_P = flags.DEFINE_float(
  'top_p', 1.0, 'Nucleus: among the fewest tokens with this share; 1: all.'
)
_SEED = flags.DEFINE_integer('seed', 0, 'Of the sampling.')
_STEP = flags.DEFINE_integer(
  'checkpoint', None, 'Which checkpoint; default: the best or the latest.'
)


def main(argv: list[str]) -> None:
  del argv
  command.keep_memory()
  for name, flag in (('num_tokens', _TOKENS), ('num_samples', _SAMPLES)):
    if flag.value < 1:
      raise UserError(f'--{name} is {flag.value}: at least 1')
  if _TEMPERATURE.value <= 0:
    raise UserError('--temperature must be positive; --greedy is the limit 0')
  if not 0 < _TOP_P.value <= 1 or _TOP_K.value < 0:
    raise UserError('--top_p lies in (0, 1], --top_k is not negative')
  params, meta, _ = checkpoint.read(_WORKDIR.value, _STEP.value)
  tokenizer = tokenizer_lib.load(_WORKDIR.value)
  prompt = tokenizer.encode(_PROMPT.value) or [tokenizer.document_id]
  samples = generate(
    params['gpt'],
    models.read(meta['model']),
    prompt,
    num_tokens=_TOKENS.value,
    num_samples=_SAMPLES.value,
    seed=_SEED.value,
    greedy=_GREEDY.value,
    temperature=_TEMPERATURE.value,
    top_k=_TOP_K.value,
    top_p=_TOP_P.value,
  )
  for i, tokens in enumerate(samples):
    if len(samples) > 1:
      print(f'--- sample {i + 1}')
    print(tokenizer.decode([*prompt, *tokens]))
  sys.stdout.flush()


def generate(
  params: dict,
  config: models.Config,
  prompt: list[int],
  *,
  num_tokens: int,
  num_samples: int,
  seed: int,
  greedy: bool,
  temperature: float,
  top_k: int,
  top_p: float,
) -> np.ndarray:
  """Samples continuations of a prompt.

  Args:
    params: the model's ('gpt' of a checkpoint).
    config: its configuration.
    prompt: at least one token id; the last n_ctx are seen.
    num_tokens, num_samples: what to make.
    seed: the same seed makes the same samples.
    greedy, temperature, top_k, top_p: how, see the flags.

  Returns:
    int32 [num_samples, num_tokens], of the text's vocabulary.
  """
  model = models.new(config)
  window = np.zeros((num_samples, config.n_ctx), np.int32)
  prompt = prompt[-config.n_ctx :]
  window[:, : len(prompt)] = prompt

  @jax.jit
  def extend(params, window_ST, length, key):
    h_STD, embed_VD = model.apply({'params': params}, window_ST, seed_2=None)
    h_S1D = jax.lax.dynamic_slice_in_dim(h_STD, length - 1, 1, axis=1)
    logits_SV = gpt.logits(h_S1D, embed_VD[: config.vocab_size])[:, 0]
    token_S = pick(
      logits_SV,
      key,
      greedy=greedy,
      temperature=temperature,
      top_k=top_k,
      top_p=top_p,
    )
    full = length == config.n_ctx
    window_ST = jnp.where(full, jnp.roll(window_ST, -1, axis=1), window_ST)
    place = jnp.where(full, length - 1, length)
    window_ST = jax.lax.dynamic_update_slice_in_dim(
      window_ST, token_S[:, None], place, axis=1
    )
    return window_ST, place + 1, token_S

  window_ST, length = jnp.asarray(window), jnp.int32(len(prompt))
  out = []
  for key in jax.random.split(jax.random.key(seed), num_tokens):
    window_ST, length, token_S = extend(params, window_ST, length, key)
    out.append(token_S)
  return np.stack(jax.device_get(out), axis=1)


@functools.partial(jax.jit, static_argnames=('greedy', 'top_k', 'top_p'))
def pick(
  logits_SV: jax.Array,
  key: jax.Array,
  *,
  greedy: bool,
  temperature: float,
  top_k: int,
  top_p: float,
) -> jax.Array:
  """int32 [S]: one token of each row of logits.

  top_k keeps the k likeliest; top_p keeps the fewest tokens whose
  probabilities reach it (always the likeliest), after top_k and temperature.
  """
  if greedy:
    return logits_SV.argmax(axis=-1).astype(jnp.int32)
  logits_SV = logits_SV / temperature
  if top_k:
    k = min(top_k, logits_SV.shape[-1])
    least_S1 = jax.lax.top_k(logits_SV, k)[0][:, -1:]
    logits_SV = jnp.where(logits_SV < least_S1, -jnp.inf, logits_SV)
  if top_p < 1.0:
    sorted_SV = jnp.sort(logits_SV, axis=-1, descending=True)
    probs_SV = jax.nn.softmax(sorted_SV)
    before_SV = jnp.cumsum(probs_SV, axis=-1) - probs_SV
    kept_SV = jnp.where(before_SV < top_p, sorted_SV, jnp.inf)
    least_S1 = kept_SV.min(axis=-1, keepdims=True)
    logits_SV = jnp.where(logits_SV < least_S1, -jnp.inf, logits_SV)
  return jax.random.categorical(key, logits_SV).astype(jnp.int32)


if __name__ == '__main__':
  command.run(main)
