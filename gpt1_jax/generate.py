r"""Continues a prompt with a trained run.

  python -m gpt1_jax.generate --workdir=runs/mini --prompt='It was a dark'
  python -m gpt1_jax.generate --workdir=runs/mini --prompt='She said' \
      --num_samples=3 --top_k=40 --temperature=0.8 --seed=1

--prompt may be given several times; all are continued together. The rule for
long texts: when the context is full, the model goes on from the last half of
it.
"""

import sys

from absl import flags

from gpt1_jax import cli
from gpt1_jax.corpus import tokenization
from gpt1_jax.errors import UserError
from gpt1_jax.model import decoding
from gpt1_jax.train import checkpoint

_WORKDIR = flags.DEFINE_string(
  'workdir', None, 'A run of pretrain or finetune.', required=True
)
_PROMPT = flags.DEFINE_multi_string(
  'prompt', [''], 'Text to go on from; empty: from a document boundary.'
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
  for name, flag in (('num_tokens', _TOKENS), ('num_samples', _SAMPLES)):
    if flag.value < 1:
      raise UserError(f'--{name} is {flag.value}: at least 1')
  if _TEMPERATURE.value <= 0:
    raise UserError('--temperature must be positive; --greedy is the limit 0')
  if not 0 < _TOP_P.value <= 1 or _TOP_K.value < 0:
    raise UserError('--top_p lies in (0, 1], --top_k is not negative')
  params, meta, _ = checkpoint.read(_WORKDIR.value, _STEP.value)
  tokenizer = tokenization.load(_WORKDIR.value)
  prompts = [
    tokenizer.encode(text) or [tokenizer.document_id] for text in _PROMPT.value
  ]
  tokens_PST = decoding.generate(
    params['gpt'],
    meta.model,
    prompts,
    num_tokens=_TOKENS.value,
    num_samples=_SAMPLES.value,
    seed=_SEED.value,
    sampling=decoding.Sampling(
      _GREEDY.value, _TEMPERATURE.value, _TOP_K.value, _TOP_P.value
    ),
  )
  several = len(prompts) * _SAMPLES.value > 1
  for number, (prompt, samples) in enumerate(
    zip(prompts, tokens_PST.tolist(), strict=True), 1
  ):
    for sample, tokens in enumerate(samples, 1):
      if several:
        of = f'prompt {number}, ' if len(prompts) > 1 else ''
        print(f'--- {of}sample {sample}')
      print(tokenizer.decode([*prompt, *tokens]))
  sys.stdout.flush()


if __name__ == '__main__':
  cli.run(main)
