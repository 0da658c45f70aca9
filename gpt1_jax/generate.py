r"""Generates text from a trained run.

  python -m gpt1_jax.generate --workdir=runs/mini --prompt='It was a dark'
  python -m gpt1_jax.generate --workdir=runs/mini --prompt='She said' \
      --num_samples=3 --top_k=40 --temperature=0.8 --seed=1
  python -m gpt1_jax.generate --workdir=runs/mini --prompt_file=opening.txt
  echo 'She said' | python -m gpt1_jax.generate --workdir=runs/mini \
      --prompt_file=-
  python -m gpt1_jax.generate --workdir=runs/mini --interactive

--workdir is a run, or a folder with OpenAI's or Hugging Face's files. --prompt
may be repeated; all prompts are decoded in one batch. A single sample is
printed as it grows; several are printed when all are complete. A sample ends
after --max_tokens, or where the document ends (a note says so). When the
context is full, generation continues from its second half.

--interactive asks for prompts until Ctrl-D. Ctrl-C ends the sample. The arrow
keys recall earlier prompts.
"""

import sys

from absl import flags

from gpt1_jax import cli, interrupts, storage
from gpt1_jax.errors import UserError

_WORKDIR = flags.DEFINE_string(
  'workdir', None, 'Run directory, or a folder of weights.', required=True
)
_PROMPT = flags.DEFINE_multi_string(
  'prompt',
  [],
  'Text to continue; default: start a new document',
)
_FILE = flags.DEFINE_string(
  'prompt_file', None, 'File with a text to continue; - reads stdin.'
)
_INTERACTIVE = flags.DEFINE_bool('interactive', False, 'Ask for prompts.')
_TOKENS = flags.DEFINE_integer(
  'max_tokens', 100, 'Maximum tokens to generate per sample.', lower_bound=1
)
_SAMPLES = flags.DEFINE_integer(
  'num_samples', 1, 'Samples per prompt.', lower_bound=1, upper_bound=2**16
)
_GREEDY = flags.DEFINE_bool(
  'greedy', False, 'Always pick the most likely token.'
)
_TEMPERATURE = flags.DEFINE_float(
  'temperature',
  1.0,
  'Below 1 sharpens the distribution, above 1 flattens it; 0 is --greedy.',
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
_STEP = cli.define_step()


def main() -> None:
  cli.say_first(f'generate: from {_WORKDIR.value}')
  with interrupts.importing():
    from gpt1_jax.inference import loading, options, prompting
  how = options.parse(
    {
      'max_tokens': _TOKENS.value,
      'temperature': 0.0 if _GREEDY.value else _TEMPERATURE.value,
      'top_k': _TOP_K.value,
      'top_p': _TOP_P.value,
      'seed': _SEED.value,
    }
  )
  prompts = list(_PROMPT.value)
  if _FILE.value:
    prompts.append(_read(_FILE.value))
  if _INTERACTIVE.value and (prompts or _SAMPLES.value > 1):
    raise UserError(
      '--interactive asks for one prompt at a time: remove '
      '--prompt, --prompt_file and --num_samples'
    )
  run = loading.load(_WORKDIR.value, _STEP.value)
  if _INTERACTIVE.value:
    prompting.converse(run, how)
    cli.leave(0)  # a sample that Ctrl-C ended may still be computed
  else:
    prompting.sample(run, how, prompts or [''], _SAMPLES.value)


def _read(name: str) -> str:
  """Returns the text of --prompt_file, without trailing newlines."""
  try:
    if name == '-':
      return sys.stdin.buffer.read().decode('utf-8').rstrip('\n')
    return storage.path(name).read_text(encoding='utf-8').rstrip('\n')
  except UnicodeDecodeError as error:
    raise UserError(f'{name}: not UTF-8 text ({error.reason})') from None


if __name__ == '__main__':
  cli.run(main)
