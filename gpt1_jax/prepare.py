r"""Prepares text for pretraining: clean, deduplicate, split, tokenize, shard.

  python -m gpt1_jax.prepare --input=books/ --output=data/books
  python -m gpt1_jax.prepare --input='more/*.jsonl.gz' --input=books/ \
      --output=data/all --merges=8000
  python -m gpt1_jax.prepare --output=data/books --verify

--input may be repeated, and formats mixed: a folder or glob of .txt or .txt.gz
files (each file is a document), of .jsonl, .jsonl.gz or .parquet files (each
row is a document), tfds:NAME[/CONFIG]:SPLIT[:FIELD], builtin:python-reference.

Documents are decoded (UTF-8), repaired (ftfy), standardised, deduplicated, and
split into training and validation by their hash (or by --hold_out). A BPE
tokenizer is trained on the training split, and the tokens are written to
shards. --tokenizer=openai:DIR uses the original vocabulary of GPT-1 instead:
OpenAI's two files or a Hugging Face openai-gpt folder (pip install
'gpt1_jax[openai]'). It has no row for the end of a document: a newline ends it.

Memory stays bounded for a corpus of any size: a worker holds a few chunks of a
megabyte (or its largest document), the tokenizer's trainer the distinct words
of --tokenizer_sample_mb of text, and each document adds about 100 bytes. Until
the run ends, the cleaned text takes as much disk as the unpacked input.

--engine=beam writes the same bytes on many machines (pip install
'gpt1_jax[beam]') and reads gs:// paths too. --beam_options choose the runner;
the default runs in this process, in memory, as a trial:

  Dataflow: --beam_options='--runner=DataflowRunner --project=P --region=R
    --temp_location=gs://B/tmp --setup_file=./setup.py' ('apache-beam[gcp]')
  Flink, Spark: --beam_options='--runner=FlinkRunner --flink_master=HOST:8081'
    or '--runner=SparkRunner --spark_master_url=spark://HOST:7077'

Workers need gpt1_jax (--setup_file, or an image that contains it). They share
files in --temp_location, or else next to --output, which must then lie on a
disk that all of them see. A worker holds one document; this machine holds the
words to train on, and writes the output, for which it takes twice the disk.
"""

import os
import pathlib

from absl import flags

from gpt1_jax import cli, storage
from gpt1_jax.corpus import beam, local_engine, pipeline, preparation, shards
from gpt1_jax.errors import UserError

_INPUT = flags.DEFINE_multi_string(
  'input', [], 'Text to read, see above. Repeatable.'
)
_OUTPUT = flags.DEFINE_string(
  'output', None, 'Folder to write; it appears when complete.', required=True
)
_TEXT_FIELD = flags.DEFINE_string(
  'text_field', 'text', 'Field or column that holds the text of a row.'
)
_MERGES = flags.DEFINE_integer(
  'merges', 40_000, 'Merges of the BPE tokenizer (40,000 in the paper).'
)
_TOKENIZER = flags.DEFINE_string(
  'tokenizer',
  None,
  'Use this tokenizer instead of training one: a .model file, the folder of a '
  'run or of prepared data, or openai:DIR.',
)
_SAMPLE_MB = flags.DEFINE_integer(
  'tokenizer_sample_mb',
  1000,
  'Megabytes of training text to train the tokenizer on, at most; paragraphs '
  'are chosen by their hash.',
)
_VALIDATION = flags.DEFINE_float(
  'validation_fraction', 0.05, 'Share of documents to hold out, by their hash.'
)
_HOLD_OUT = flags.DEFINE_multi_string(
  'hold_out',
  [],
  "Holds out documents whose source matches a pattern such as '*/Austen_*'. "
  'Repeatable. --validation_fraction=0 holds out no others.',
)
_SHARD_TOKENS = flags.DEFINE_integer(
  'shard_tokens', 100_000_000, 'Tokens in a shard, at most.'
)
_WORKERS = flags.DEFINE_integer(
  'workers', os.cpu_count() or 1, 'Number of processes of the local engine.'
)
_ENGINE = flags.DEFINE_enum(
  'engine', 'local', ('local', 'beam'), 'Where to run, see above.'
)
_BEAM_OPTIONS = flags.DEFINE_string(
  'beam_options', None, 'Pipeline options for --engine=beam, as one string.'
)
_VERIFY = flags.DEFINE_bool(
  'verify', False, 'Only checks the sha256 of every file in --output.'
)


def main(argv: list[str]) -> None:
  del argv
  if storage.is_remote(_OUTPUT.value):
    raise UserError(
      f'--output={_OUTPUT.value}: shards are written to a local disk; copy '
      'them to the bucket afterwards (gcloud storage rsync), meta.json last'
    )
  output = pathlib.Path(_OUTPUT.value).resolve()
  if _VERIFY.value:
    print(f'{output}: {shards.verify(output)} files are unchanged')
    return
  settings = pipeline.PrepareSettings(
    inputs=tuple(_INPUT.value),
    text_field=_TEXT_FIELD.value,
    merges=None if _TOKENIZER.value else _MERGES.value,
    tokenizer=_TOKENIZER.value,
    tokenizer_sample_mb=_SAMPLE_MB.value,
    validation_fraction=_VALIDATION.value,
    hold_out=tuple(_HOLD_OUT.value),
    shard_tokens=_SHARD_TOKENS.value,
  )
  lines = [*settings.mistakes(), *_mistakes()]
  if len(lines) > 1:
    lines = [f'{len(lines)} options are wrong:', *lines]
  if lines:
    raise UserError('\n  '.join(lines))
  preparation.prepare(output, settings, _engine())


def _mistakes() -> list[str]:
  """Returns a line for each combination of flags that makes no sense."""
  lines = []
  if _TOKENIZER.value and flags.FLAGS['merges'].present:
    lines.append('--merges trains a tokenizer, --tokenizer uses one: give one')
  if (_WORKERS.value or 0) < 1:
    lines.append(f'--workers is {_WORKERS.value}: at least 1')
  if _BEAM_OPTIONS.value and _ENGINE.value != 'beam':
    lines.append('--beam_options requires --engine=beam')
  return lines


def _engine() -> preparation.Engine:
  if _ENGINE.value == 'beam':
    return beam.engine(_BEAM_OPTIONS.value or '')
  return local_engine.LocalEngine(_WORKERS.value)


if __name__ == '__main__':
  cli.run(main)
