r"""Generates text from a trained run.

  python -m gpt1_jax.generate --workdir=runs/mini --prompt='It was a dark'
  python -m gpt1_jax.generate --workdir=runs/mini --prompt='She said' \
      --num_samples=3 --top_k=40 --temperature=0.8 --seed=1

--prompt may be repeated; all prompts are decoded in one batch. When the context
is full, generation continues from its second half.
"""

import sys

from absl import flags

from gpt1_jax import cli
from gpt1_jax.corpus import tokenization
from gpt1_jax.errors import UserError
from gpt1_jax.model import decoding
from gpt1_jax.train import checkpoint

_WORKDIR = flags.DEFINE_string(
  'workdir', None, 'Run directory of pretrain or finetune.', required=True
)
_PROMPT = flags.DEFINE_multi_string(
  'prompt',
  [''],
  'Text to continue; repeatable. Default: start a new document.',
)
_TOKENS = flags.DEFINE_integer(
  'num_tokens', 100, 'Tokens to generate per sample.'
)
_SAMPLES = flags.DEFINE_integer('num_samples', 1, 'Samples per prompt.')
_GREEDY = flags.DEFINE_bool(
  'greedy', False, 'Always pick the most likely token.'
)
_TEMPERATURE = flags.DEFINE_float(
  'temperature',
  1.0,
  'Below 1 sharpens the distribution, above 1 flattens it.',
)
_TOP_K = flags.DEFINE_integer(
  'top_k', 0, 'Sample from the k most likely tokens; 0 samples from all.'
)
_TOP_P = flags.DEFINE_float(
  'top_p',
  1.0,
  'Nucleus sampling: sample from the smallest set of tokens whose probability '
  'reaches top_p; 1 samples from all.',
)
_SEED = flags.DEFINE_integer('seed', 0, 'Random seed for sampling.')
_STEP = flags.DEFINE_integer(
  'checkpoint', None, 'Checkpoint step; default: the best, else the latest.'
)


def main(argv: list[str]) -> None:
  del argv
  for name, flag in (('num_tokens', _TOKENS), ('num_samples', _SAMPLES)):
    if flag.value < 1:
      raise UserError(f'--{name}={flag.value} must be at least 1')
  if _TEMPERATURE.value <= 0:
    raise UserError('--temperature must be positive; use --greedy instead of 0')
  if not 0 < _TOP_P.value <= 1 or _TOP_K.value < 0:
    raise UserError(
      '--top_p must be in (0, 1] and --top_k must not be negative'
    )
  params, meta, _ = checkpoint.read(_WORKDIR.value, _STEP.value)
  tokenizer = tokenization.load(_WORKDIR.value)
  prompts = [
    tokenizer.encode(text) or [tokenizer.document_id] for text in _PROMPT.value
  ]
  tokens_PST = decoding.generate(
    params['gpt'],
    meta.model,
    prompts,
    decoding.Request(_TOKENS.value, _SAMPLES.value, _SEED.value),
    decoding.Sampling(
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
