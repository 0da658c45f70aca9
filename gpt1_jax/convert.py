r"""Converts released weights to a run, or a run to a Hugging Face folder.

  python -m gpt1_jax.convert --input=finetune-transformer-lm/model \
      --output=runs/released
  python -m gpt1_jax.convert --input=openai-gpt --output=runs/released
  python -m gpt1_jax.convert --input=runs/mini --output=hf/mini
  python -m gpt1_jax.convert --input=runs/mini --output=models/mini --slim

The output depends on what --input contains:

  OpenAI's params_0.npy, params_1.npy, ... and params_shapes.json, with the
    vocabulary (encoder_bpe_40000.json, vocab_40000.bpe): becomes a run that
    finetune, evaluate and generate accept;
  a Hugging Face openai-gpt folder (config.json, model.safetensors or
    pytorch_model.bin, whole or in shards with an index, the tokenizer's files;
    hf download openai-community/openai-gpt --local-dir=openai-gpt): becomes a
    run;
  a pretrained or fine-tuned run: becomes a Hugging Face folder that
    OpenAIGPTLMHeadModel and AutoTokenizer load: config.json,
    model.safetensors, the tokenizer's files, and README.md, a model card. The
    head of a fine-tuned run is written to head.safetensors. With --slim it
    becomes a smaller run: weights in bfloat16, no optimiser state.

Weights are copied bit for bit in float32; float16 and bfloat16 are widened to
float32, which is exact. Settings that weight files do not record follow the
released code, as in configs/pretrain.py:openai: dropout on the embedding matrix
and a softmax over all its rows. If the input has no embeddings for the start,
delimiter and extract tokens, fine-tuning initialises them from its seed. Needs
pip install 'gpt1_jax[openai]'. Both folders may be in a bucket
(gs://BUCKET/...).
"""

import pathlib

from absl import flags

from gpt1_jax import cli, interrupts, staging, storage
from gpt1_jax.errors import UserError

_INPUT = flags.DEFINE_string('input', None, 'Folder to read.', required=True)
_OUTPUT = flags.DEFINE_string(
  'output', None, 'Folder to write; appears once complete.', required=True
)
_TOKENIZER = flags.DEFINE_string(
  'tokenizer',
  None,
  'Folder with the vocabulary of the released weights; default: --input.',
)
_N_HEAD = flags.DEFINE_integer(
  'n_head',
  None,
  "Number of attention heads, which OpenAI's weights do not record; default: "
  'n_embd / 64 (paper, section 4.1).',
)
_STEP = cli.define_step()
_SLIM = flags.DEFINE_bool(
  'slim', None, 'Write a run in bfloat16, for sharing: see above.'
)
_STAGE_TO = cli.define_stage_to()


def main() -> None:
  cli.say_first(f'convert: {_INPUT.value} to {_OUTPUT.value}')
  with interrupts.importing():
    from gpt1_jax.interop import conversion
  source, output = storage.path(_INPUT.value), storage.path(_OUTPUT.value)
  kind = conversion.detect(source)
  for flag, kinds in (
    (_TOKENIZER, ('openai', 'huggingface')),
    (_N_HEAD, ('openai',)),
    (_STEP, ('run',)),
    (_SLIM, ('run',)),
  ):
    if flag.value is not None and kind not in kinds:
      raise UserError(
        f'--{flag.name} does not apply: {source} is '
        f'{conversion.DESCRIPTIONS[kind]}'
      )
  if not storage.is_free(output):
    raise UserError(f'{output}: already exists; use another --output')
  if _SLIM.value:
    conversion.to_slim_run(source, output, _STEP.value)
  elif kind == 'run':
    conversion.to_huggingface(source, output, _STEP.value)
  else:
    here = pathlib.Path(staging.fetch(_INPUT.value, _STAGE_TO.value))
    weights = conversion.read_folder(here, _N_HEAD.value)
    conversion.to_run(weights, here, output, _TOKENIZER.value)
  print(f'{output}: done')


if __name__ == '__main__':
  cli.run(main)
