r"""Prepares text for pretraining: clean, deduplicate, split, tokenize, shard.

  python -m gpt1_jax.prepare --input=books/ --output=data/books
  python -m gpt1_jax.prepare --input='more/*.jsonl.gz' --input=books/ \
      --output=data/all --merges=8000
  python -m gpt1_jax.prepare --output=data/books --verify

Inputs, which may be repeated and mixed: a folder or glob of .txt, .txt.gz (one
file is one document), .jsonl, .jsonl.gz or .parquet files (one row is one
document), tfds:NAME[/CONFIG]:SPLIT[:FIELD], builtin:python-reference.

Documents are decoded (UTF-8), mended (ftfy), standardised and deduplicated, and
split into training and validation by their hash (or, with --hold_out, by their
name). Then a BPE tokenizer is trained on the training split, and the tokens are
written in shards.

--tokenizer=openai:DIR takes the original vocabulary of GPT-1 instead, from
OpenAI's two files (encoder_bpe_40000.json, vocab_40000.bpe) or a Hugging Face
openai-gpt folder. It needs pip install 'gpt1_jax[openai]'. It has no row for
the end of a document: a newline, which has one, stands there.

Memory stays bounded whatever the size of the corpus: a worker holds a few
chunks of a megabyte (or its largest document), the tokenizer's trainer the
distinct words of --tokenizer_sample_mb of text, and of each document a digest
is kept, about 100 bytes. On disk, next to the output, the cleaned text waits in
a temporary folder, which takes as much room as the input unpacked.

--engine=beam does the same on many machines, and the same bytes come out: it
runs as two Apache Beam pipelines (pip install 'gpt1_jax[beam]') and reads gs://
paths too. --beam_options name the runner; without, this process plays it, all
in memory, as a trial:

  Dataflow: --beam_options='--runner=DataflowRunner --project=P --region=R
    --temp_location=gs://B/tmp --setup_file=./setup.py' ('apache-beam[gcp]')
  Flink, Spark: --beam_options='--runner=FlinkRunner --flink_master=HOST:8081'
    or '--runner=SparkRunner --spark_master_url=spark://HOST:7077'

Workers need gpt1_jax (--setup_file, or an image that has it), and meet in
--temp_location, or else next to --output, which then lies on a disk that all of
them share. A worker holds a document and the rows of 16,384 (a runner that
keeps a group in memory: a shard), and on its disk a shard; this machine holds
the words to train on, and the output.
"""

import collections
import contextlib
import logging
import os
import pathlib
import shutil
import time
from types import ModuleType
from typing import Any

from absl import flags

from gpt1_jax import cli, progress, storage
from gpt1_jax.corpus import (
  cleaning,
  documents,
  local_engine,
  pipeline,
  sentencepiece_tokenizer,
  shards,
  tokenization,
)
from gpt1_jax.errors import UserError

_INPUT = flags.DEFINE_multi_string(
  'input', [], 'What to read, see above; may be given several times.'
)
_OUTPUT = flags.DEFINE_string(
  'output', None, 'Folder to write; made when all is done.', required=True
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
  'Take this tokenizer and train none: a .model file, the folder of a run or '
  'of prepared data, or openai:DIR.',
)
_SAMPLE_MB = flags.DEFINE_integer(
  'tokenizer_sample_mb',
  1000,
  'The tokenizer is trained on this much text, paragraphs chosen by their '
  'hash; on all of the training split if it is smaller.',
)
_VALIDATION = flags.DEFINE_float(
  'validation_fraction', 0.05, 'Share of documents held out, by their hash.'
)
_HOLD_OUT = flags.DEFINE_multi_string(
  'hold_out',
  [],
  'Documents held out by name: a pattern of their source, such as '
  "'*/Austen_*'; may be given several times. With --validation_fraction=0, "
  'they alone.',
)
_SHARD_TOKENS = flags.DEFINE_integer(
  'shard_tokens', 100_000_000, 'Tokens a shard, at most.'
)
_WORKERS = flags.DEFINE_integer(
  'workers', os.cpu_count(), 'Processes of the local engine.'
)
_ENGINE = flags.DEFINE_enum(
  'engine', 'local', ('local', 'beam'), 'What does the work, see above.'
)
_BEAM_OPTIONS = flags.DEFINE_string(
  'beam_options', None, 'Pipeline options for --engine=beam, as one string.'
)
_VERIFY = flags.DEFINE_bool(
  'verify', False, 'Only check the sha256 of every file of --output.'
)


def main(argv: list[str]) -> None:
  del argv
  if storage.is_remote(_OUTPUT.value):
    raise UserError(
      f'--output={_OUTPUT.value}: shards are written to a disk of this '
      'machine; copy them to the bucket afterwards (gcloud storage rsync), '
      'meta.json last'
    )
  output = storage.path(_OUTPUT.value).resolve()
  if _VERIFY.value:
    count = shards.verify(output)
    print(f'{output}: {count} files are as they were written')
    return
  settings = _settings()
  if (output / shards.META).exists():
    _check_finished(output, settings)
    print(f'{output}: finished before, nothing to do')
    return
  for spec in settings['inputs']:
    if os.path.isdir(spec) and output.is_relative_to(os.path.realpath(spec)):
      raise UserError(f'{output}: lies in --input={spec}; write it elsewhere')
  if output.exists() and (not output.is_dir() or any(output.iterdir())):
    raise UserError(f'{output}: exists and is no prepared data; not touched')
  with storage.atomic_dir(output) as temporary:
    if _ENGINE.value == 'beam':
      prepare_on_beam(temporary, settings, _BEAM_OPTIONS.value or '')
    else:
      prepare(temporary, settings, _WORKERS.value)
  print(f'{output}: done')


def prepare(
  directory: pathlib.Path, settings: dict[str, Any], workers_count: int
) -> None:
  """Fills an empty directory; see the module for the steps."""
  spool = directory / 'spool'
  tokenizer = _given(settings)
  measured = documents.measure(settings['inputs'])
  total = documents.total_bytes(settings['inputs'])
  with local_engine.Workers(workers_count) as workers:
    found = documents.documents(settings['inputs'], settings['text_field'])
    rule = pipeline.SplitRule.of(settings)
    with progress.Progress('clean', total, 'documents', 'MB/s') as bar:
      size = local_engine.clean(workers, found, spool, rule, bar.add)
    cleaned = sum(file.stat().st_size for file in spool.iterdir())
    if not tokenizer:
      share = settings['tokenizer_sample_mb'] * 1_000_000 / size
      with progress.Progress(
        'count words', cleaned, 'documents', 'MB/s'
      ) as bar:
        words = local_engine.count_words(workers, spool, share, bar.add)
      tokenizer = _train(words, settings['merges'])
      del words
    tokenizer.save(directory)
    with progress.Progress('encode', cleaned, 'documents', 'tokens/s') as bar:
      splits = local_engine.encode(
        workers, spool, directory, settings['shard_tokens'], bar.add
      )
  shutil.rmtree(spool)
  _finish(directory, settings, measured, tokenizer, splits)


def prepare_on_beam(
  directory: pathlib.Path, settings: dict[str, Any], options: str
) -> None:
  """`prepare` by the workers of a Beam runner; the same bytes come out."""
  pipelines, places, running = _beam()
  beam_options = running.options_of(options)
  tokenizer = _given(settings)
  files = places.inputs(settings['inputs'])
  measured = places.measure(settings['inputs'])
  with places.spool(beam_options, directory) as spool:
    words = pipelines.clean(beam_options, spool, files, settings)
    if not tokenizer:
      tokenizer = _train(words, settings['merges'])
    del words
    tokenizer.save(directory)
    splits = pipelines.encode(
      beam_options, spool, directory, tokenizer, settings['shard_tokens']
    )
  _finish(directory, settings, measured, tokenizer, splits)


def _beam() -> tuple[ModuleType, ModuleType, ModuleType]:
  """The modules of data/beam; Beam is an extra, and slow to import."""
  logging.disable(logging.WARNING)  # it tells what its other extras lack
  try:
    import apache_beam  # noqa: F401
  except ImportError:
    raise UserError(
      "--engine=beam needs Apache Beam: pip install 'gpt1_jax[beam]'"
    ) from None
  else:
    from gpt1_jax.corpus.beam import pipelines, places, running
  finally:
    logging.disable(logging.NOTSET)
  return pipelines, places, running


def _given(settings: dict[str, Any]) -> tokenization.Tokenizer | None:
  name = settings['tokenizer']
  return tokenization.load(name) if name else None


def _train(
  words: collections.Counter[str], merges: int
) -> tokenization.Tokenizer:
  started = time.perf_counter()
  tokenizer = sentencepiece_tokenizer.train(words, merges)
  print(
    f'tokenizer: {tokenizer.merges} merges, {tokenizer.vocab_size} rows, '
    f'{time.perf_counter() - started:.0f} s'
  )
  return tokenizer


def _finish(
  directory: pathlib.Path,
  settings: dict[str, Any],
  measured: dict[str, int],
  tokenizer: tokenization.Tokenizer,
  splits: dict[str, Any],
) -> None:
  """Writes meta.json; it does not depend on the engine."""
  shards.write_meta(
    directory,
    {
      'splits': splits,
      'tokenizer': tokenizer.description(),
      'cleaning': cleaning.CLEANING_VERSION,
      'validation_fraction': settings['validation_fraction'],
      'settings': settings,
      'input': measured,
    },
  )
  for split, facts in splits.items():
    print(
      f'{split}: {facts["documents"]} documents, {facts["words"]:,} words, '
      f'{facts["tokens"]:,} tokens'
    )


def _settings() -> dict[str, Any]:
  """What the output depends on; goes into meta.json."""
  if _TOKENIZER.value and flags.FLAGS['merges'].present:
    raise UserError(
      '--merges trains a tokenizer and --tokenizer takes one: give one of them'
    )
  settings = {
    'inputs': _INPUT.value,
    'text_field': _TEXT_FIELD.value,
    'merges': None if _TOKENIZER.value else _MERGES.value,
    'tokenizer': _TOKENIZER.value,
    'tokenizer_sample_mb': _SAMPLE_MB.value,
    'validation_fraction': _VALIDATION.value,
    'hold_out': _HOLD_OUT.value,
    'shard_tokens': _SHARD_TOKENS.value,
  }
  _check(settings)
  return settings


def _check_finished(output: pathlib.Path, settings: dict[str, Any]) -> None:
  meta = shards.read_meta(output)
  there = meta['settings']
  there.setdefault('hold_out', [])  # younger than some prepared data
  different = [k for k in settings if settings[k] != there.get(k)]
  if different:
    raise UserError(
      f'{output}: finished before with another {", ".join(different)}; give '
      'another --output or remove it'
    )
  before = now = meta.get('input')
  with contextlib.suppress(UserError):  # it may be gone by now
    now = _measure(settings['inputs'])
  if before and now != before:
    raise UserError(
      f'{output}: finished before, but its input has changed since (it had '
      f'{before["files"]} files, {before["bytes"]} bytes; now {now["files"]}, '
      f'{now["bytes"]}); give another --output or remove it'
    )


def _measure(inputs: list[str]) -> dict[str, int]:
  if _ENGINE.value == 'beam':
    _, places, _ = _beam()
    return places.measure(inputs)
  return documents.measure(inputs)


def _check(settings: dict[str, Any]) -> None:
  if not settings['inputs']:
    raise UserError('--input is missing: what should be read? see --help')
  if _ENGINE.value != 'beam':
    if _BEAM_OPTIONS.value:
      raise UserError('--beam_options are for --engine=beam: give both')
    for spec in settings['inputs']:
      if '://' in spec:
        raise UserError(
          f'--input={spec}: only --engine=beam reads it; or copy it here first'
        )
  fraction = settings['validation_fraction']
  if not (0 < fraction < 1 or (fraction == 0 and settings['hold_out'])):
    raise UserError(
      '--validation_fraction lies between 0 and 1; 0 itself takes --hold_out'
    )
  for name, value in (
    ('merges', settings['merges']),
    ('shard_tokens', settings['shard_tokens']),
    ('tokenizer_sample_mb', settings['tokenizer_sample_mb']),
    ('workers', _WORKERS.value),
  ):
    if value is not None and value < 1:
      raise UserError(f'--{name} is {value}: at least 1')


if __name__ == '__main__':
  cli.run(main)
