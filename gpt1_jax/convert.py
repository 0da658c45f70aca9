r"""Takes released weights in, and gives a run to other programs.

  python -m gpt1_jax.convert --input=finetune-transformer-lm/model \
      --output=runs/released
  python -m gpt1_jax.convert --input=openai-gpt --output=runs/released
  python -m gpt1_jax.convert --input=runs/mini --output=hf/mini

What --input holds says what is made of it:

  OpenAI's params_0.npy, params_1.npy, ... and params_shapes.json, with the
    vocabulary (encoder_bpe_40000.json, vocab_40000.bpe): a run, which
    finetune, evaluate and generate take;
  a Hugging Face folder of the openai-gpt kind (config.json, model.safetensors
    or pytorch_model.bin, the tokenizer's files): the same;
  a run, pretrained or fine-tuned: a Hugging Face folder, which
    OpenAIGPTLMHeadModel and AutoTokenizer load: config.json,
    model.safetensors, the tokenizer's files, README.md with the figures of the
    training. The head of a fine-tuned run lies beside it, in head.safetensors.

Numbers are copied bit for bit in float32. What files of weights do not say is
taken from the released code, as in configs/pretrain.py:openai: dropout on the
embedding matrix, the softmax over all its rows. Rows for start, delimiter and
extract, where the input has none, are drawn when fine-tuning starts, from that
run's seed. It needs pip install 'gpt1_jax[openai]'. Both places may lie in a
bucket (gs://BUCKET/...).
"""

import contextlib
import pathlib
import tempfile
from collections.abc import Iterator

from absl import flags

from gpt1_jax import cli, staging, storage
from gpt1_jax.errors import UserError
from gpt1_jax.interop import exchange

_INPUT = flags.DEFINE_string('input', None, 'What to read.', required=True)
_OUTPUT = flags.DEFINE_string(
  'output', None, 'Folder to write; made when all is done.', required=True
)
_TOKENIZER = flags.DEFINE_string(
  'tokenizer',
  None,
  'Where the vocabulary of released weights lies, if not beside them.',
)
_N_HEAD = flags.DEFINE_integer(
  'n_head',
  None,
  "Heads, which OpenAI's files do not say; default: n_embd / 64 (P §4.1).",
)
_STEP = flags.DEFINE_integer(
  'checkpoint',
  None,
  'Which checkpoint of a run; default: the best or the latest.',
)


def main(argv: list[str]) -> None:
  del argv
  source, output = storage.path(_INPUT.value), storage.path(_OUTPUT.value)
  kind = exchange.kind_of(source)
  for flag, kinds in (
    (_TOKENIZER, ('openai', 'huggingface')),
    (_N_HEAD, ('openai',)),
    (_STEP, ('run',)),
  ):
    if flag.value is not None and kind not in kinds:
      raise UserError(
        f'--{flag.name} does not apply: {source} is {exchange.CALLED[kind]}'
      )
  if output.exists() and (not output.is_dir() or any(output.iterdir())):
    raise UserError(f'{output}: exists already; give another --output')
  if kind == 'run':
    with _folder(storage.resolved(output)) as folder:
      exchange.to_huggingface(source, folder, _STEP.value)
  else:
    here = pathlib.Path(staging.fetch(_INPUT.value, cli.STAGE_TO.value))
    with _run(storage.resolved(output)) as workdir:
      exchange.to_run(kind, here, workdir, _TOKENIZER.value, _N_HEAD.value)
  print(f'{output}: done')


@contextlib.contextmanager
def _run(output: storage.Path) -> Iterator[storage.Path]:
  """An empty folder that becomes the run if all is well.

  In a bucket the run is written in place: its checkpoint comes last, and is
  none until it is whole.
  """
  if isinstance(output, pathlib.Path):
    with storage.atomic_dir(output) as path:
      yield path
    return
  try:
    yield output
  except BaseException:
    storage.remove(output)
    raise


@contextlib.contextmanager
def _folder(output: storage.Path) -> Iterator[pathlib.Path]:
  """An empty folder here, which becomes the output if all is well."""
  if isinstance(output, pathlib.Path):
    with storage.atomic_dir(output) as path:
      yield path
    return
  with tempfile.TemporaryDirectory(prefix='gpt1_jax-') as name:
    yield pathlib.Path(name)
    # Without config.json it is no folder of the other library.
    files = sorted(
      pathlib.Path(name).iterdir(), key=lambda file: file.name == 'config.json'
    )
    for file in files:
      storage.write_bytes(output / file.name, file.read_bytes())


if __name__ == '__main__':
  cli.run(main)
