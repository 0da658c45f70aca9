r"""Prepares text for pretraining: clean, deduplicate, split, tokenize, shard.

  python -m gpt1_jax.prepare --input=books/ --output=data/books
  python -m gpt1_jax.prepare --input='more/*.jsonl.gz' --input=books/ \
      --output=data/all --merges=8000
  python -m gpt1_jax.prepare --output=data/books --verify
  python -m gpt1_jax.prepare --output=data/books --check_overlap=glue

--input may be repeated and may mix formats: a folder or glob of .txt files
(each file is a document), of .jsonl or .parquet files (each row is a document),
hf:NAME[/CONFIG]:SPLIT[:FIELD] (pip install 'gpt1_jax[hf]'; NAME may be a folder
of data), tfds:NAME[/CONFIG]:SPLIT[:FIELD], builtin:python-reference. Text and
JSON lines may be packed (.gz, .zst). A document holds at most 100 MB of text;
each byte takes 5 to 9 bytes of memory, or 14 if the text is a single line.

Documents are decoded (UTF-8), repaired (ftfy), standardised, deduplicated, and
split into training and validation by their hash (or by --hold_out). If that
holds out none, one document is held out, or the last part of a single file. A
BPE tokenizer is trained on the training split, and the tokens are written to
shards. --tokenizer=openai:DIR uses the original vocabulary of GPT-1 instead:
OpenAI's two files or a Hugging Face openai-gpt folder (pip install
'gpt1_jax[openai]'). It has no end-of-document token: a newline ends a document.

Memory stays bounded for a corpus of any size. A worker holds a few 1 MB chunks
(or its largest document), and the tokenizer's trainer holds the distinct words
in --tokenizer_sample_mb of text. Each document adds about 100 bytes. Until the
run ends, the cleaned text takes as much disk space as the unpacked input.

--engine=beam runs on many machines, writes the same bytes (pip install
'gpt1_jax[beam]') and also reads gs:// paths. --beam_options chooses the runner;
the default runs in memory in this process, which suits small tests:

  Dataflow: --beam_options='--runner=DataflowRunner --project=P --region=R
    --temp_location=gs://B/tmp --setup_file=./setup.py' ('apache-beam[gcp]')
  Flink, Spark: --beam_options='--runner=FlinkRunner --flink_master=HOST:8081'
    or '--runner=SparkRunner --spark_master_url=spark://HOST:7077'

Workers need gpt1_jax (--setup_file, or an image that contains it). They share
files in --temp_location, or else next to --output, which must then be on a
shared disk. A worker holds one document at a time. This machine holds the words
to train the tokenizer on and writes the output, which needs twice its final
size on disk.
"""

import os
import pathlib

from absl import flags

from gpt1_jax import cli, storage
from gpt1_jax.corpus import (
  beam,
  local_engine,
  overlap,
  pipeline,
  preparation,
  shards,
)
from gpt1_jax.errors import UserError

_INPUT = flags.DEFINE_multi_string('input', [], 'Text to read: see above')
_OUTPUT = flags.DEFINE_string(
  'output', None, 'Folder to write; appears once complete.', required=True
)
_TEXT_FIELD = flags.DEFINE_string(
  'text_field', 'text', 'Field or column that holds the text.'
)
_MERGES = flags.DEFINE_integer(
  'merges', 40_000, 'Merges of the BPE tokenizer (40,000 in the paper).'
)
_TOKENIZER = flags.DEFINE_string(
  'tokenizer',
  None,
  'Use this tokenizer instead of training one: a .model file, a run directory, '
  'a folder of prepared data, or openai:DIR.',
)
_SAMPLE_MB = flags.DEFINE_integer(
  'tokenizer_sample_mb',
  1000,
  'Maximum megabytes of training text for training the tokenizer; paragraphs '
  'are sampled by hash.',
)
_VALIDATION = flags.DEFINE_float(
  'validation_fraction', 0.05, 'Fraction of documents to hold out, by hash.'
)
_HOLD_OUT = flags.DEFINE_multi_string(
  'hold_out',
  [],
  "Hold out documents whose source matches a pattern such as '*/Austen_*'; "
  'with --validation_fraction=0, hold out no others',
)
_STRIP_GUTENBERG = flags.DEFINE_bool(
  'strip_gutenberg',
  False,
  'Remove header, credits and licence that Project Gutenberg adds to books.',
)
_SKIP_BAD_ROWS = flags.DEFINE_float(
  'skip_bad_rows',
  0,
  'Leave out at most this many bad documents (a share of all, if below 1) and '
  'list them in rejected.jsonl.',
)
_SHARD_TOKENS = flags.DEFINE_integer(
  'shard_tokens', 100_000_000, 'Maximum tokens per shard.'
)
_WORKERS = flags.DEFINE_integer(
  'workers', os.cpu_count() or 1, 'Processes that --engine=local starts.'
)
_ENGINE = flags.DEFINE_enum(
  'engine', 'local', ('local', 'beam'), 'Where to run: see above.'
)
_BEAM_OPTIONS = flags.DEFINE_string(
  'beam_options', None, 'Pipeline options for --engine=beam, as one string.'
)
_VERIFY = flags.DEFINE_bool(
  'verify', False, 'Only check the sha256 of every file in --output.'
)
_CHECK_OVERLAP = flags.DEFINE_string(
  'check_overlap',
  None,
  'Only count how many sentences of the .txt, .tsv, .csv and .jsonl files in '
  'this folder occur in the training split of --output, whole or as a run of '
  '8 words; prints a table and writes overlap.json to --output.',
)


def main() -> None:
  if storage.is_remote(_OUTPUT.value):
    raise UserError(
      f'--output={_OUTPUT.value}: shards are written to a local disk; copy '
      'them to the bucket afterwards (gcloud storage rsync), meta.json last'
    )
  output = pathlib.Path(storage.writable(_OUTPUT.value))
  if _VERIFY.value:
    print(f'{output}: {shards.verify(output)} files are unchanged')
    return
  if _CHECK_OVERLAP.value:
    print(overlap.report(output, _CHECK_OVERLAP.value))
    return
  settings = pipeline.PrepareSettings(
    # BOOKS/ is BOOKS.
    inputs=tuple(storage.expanded(x).rstrip('/') or x for x in _INPUT.value),
    text_field=_TEXT_FIELD.value,
    merges=None if _TOKENIZER.value else _MERGES.value,
    tokenizer=_TOKENIZER.value,
    tokenizer_sample_mb=_SAMPLE_MB.value,
    validation_fraction=_VALIDATION.value,
    hold_out=tuple(_HOLD_OUT.value),
    shard_tokens=_SHARD_TOKENS.value,
    strip_gutenberg=_STRIP_GUTENBERG.value,
    skip_bad_rows=_SKIP_BAD_ROWS.value,
  )
  lines = [*settings.mistakes(), *_mistakes()]
  if len(lines) > 1:
    lines = [f'{len(lines)} invalid options:', *lines]
  if lines:
    raise UserError('\n  '.join(lines))
  preparation.prepare(output, settings, _engine())


def _mistakes() -> list[str]:
  """Returns an error line for each invalid flag or combination of flags."""
  lines = []
  if _TOKENIZER.value and flags.FLAGS['merges'].present:
    lines.append('--merges and --tokenizer exclude each other: give one')
  if (_WORKERS.value or 0) < 1:
    lines.append(f'--workers is {_WORKERS.value}: must be at least 1')
  if _BEAM_OPTIONS.value and _ENGINE.value != 'beam':
    lines.append('--beam_options requires --engine=beam')
  return lines


def _engine() -> preparation.Engine:
  if _ENGINE.value == 'beam':
    return beam.engine(_BEAM_OPTIONS.value or '')
  return local_engine.LocalEngine(_WORKERS.value)


if __name__ == '__main__':
  cli.run(main)
