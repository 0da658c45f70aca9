"""The engine on Apache Beam: one pipeline that cleans, one that encodes.

Between the two, this machine trains the tokenizer, and the cleaned text waits
in a spool of Avro files. `corpus.pipeline` processes each document as on the
local engine; the code here keeps the order across many workers. A segment of
the corpus is a file of rows, or up to `_BLOCK` files that are documents. A
document carries its position (segment, number in it) from where it is read. A
block is up to `_BLOCK` documents of a segment; there are few enough blocks to
list them on one machine. The tokens of a document follow those of all earlier
blocks, and of the earlier documents in its block.

A worker holds one document with its tokens, the rows of one block (about 10 MB)
and the list of blocks (about 200 bytes each); on disk, one shard, or one input
file if the inputs lie elsewhere. One worker reads a file of rows; all workers
clean its documents.
"""

import collections
import dataclasses
import json
import pathlib
import shutil
import tempfile
from collections.abc import Iterable

import apache_beam as beam
from apache_beam.io import avroio, textio
from apache_beam.options import pipeline_options

from gpt1_jax.corpus import (
  documents,
  pipeline,
  preparation,
  shards,
  tokenization,
)
from gpt1_jax.corpus.beam import files, runner, transforms

_BLOCK = 1 << 14
_CLEANED = 'cleaned'  # prefix of the spool's Avro files
_SCHEMA = {
  'type': 'record',
  'name': 'Document',
  'fields': [
    {'name': 'segment', 'type': 'long'},
    {'name': 'number', 'type': 'long'},
    {'name': 'row', 'type': 'string'},  # JSON
    {'name': 'text', 'type': 'bytes'},  # UTF-8; empty for a duplicate
  ],
}


@dataclasses.dataclass(frozen=True)
class BeamEngine:
  """Runs `prepare` on the workers of a Beam runner."""

  options: pipeline_options.PipelineOptions

  def measure(self, inputs: Iterable[str]) -> documents.InputSize:
    """Returns the number of input files and their bytes."""
    return files.measure(inputs)

  def run(
    self, directory: pathlib.Path, settings: pipeline.PrepareSettings
  ) -> tuple[tokenization.Tokenizer, preparation.Splits]:
    """Writes the tokenizer, the shards and documents.jsonl."""
    tokenizer = preparation.load_tokenizer(settings)
    with files.temporary_spool(self.options, directory) as spool:
      word_counts = _clean(self.options, spool, settings)
      if tokenizer is None:
        tokenizer = preparation.train_tokenizer(word_counts, settings)
      del word_counts
      tokenizer.save(directory)
      tokenizer_files = _share_tokenizer(tokenizer, spool)
      layout = _encode(
        self.options, spool, tokenizer_files, settings.shard_tokens
      )
      return tokenizer, _collect(spool, directory, layout)


def _clean(
  options: pipeline_options.PipelineOptions,
  spool: files.Spool,
  settings: pipeline.PrepareSettings,
) -> collections.Counter[str]:
  """Writes cleaned documents to the spool; counts the words to train on.

  Returns:
    Occurrences of each word; empty if the settings name a tokenizer.

  Raises:
    UserError: a document is damaged or empty, or a split would be empty.
  """
  rule = pipeline.SplitRule(settings.validation_fraction, settings.hold_out)
  inputs = number_inputs(files.find_inputs(settings.inputs), _BLOCK)
  with runner.pipeline(options) as p:
    records = (
      p
      | 'list files' >> beam.Create(inputs)
      | 'spread files' >> beam.Reshuffle()
      | 'read' >> beam.FlatMap(transforms.read, settings.text_field)
      | 'spread documents' >> beam.Reshuffle()
      | 'clean' >> beam.Map(transforms.clean)
      | 'find copies' >> beam.GroupByKey()
      | 'split' >> beam.FlatMap(transforms.assign_split, rule)
    )
    _ = records | 'save documents' >> avroio.WriteToAvro(
      spool.join(_CLEANED), _SCHEMA, codec='null'
    )
    summary = (
      records
      | 'summarize' >> beam.Map(transforms.summarize, rule)
      | 'add summaries' >> beam.CombineGlobally(transforms.add_summaries)
    )
    _save(summary | beam.Map(dataclasses.asdict), spool, 'summary')
    if not settings.tokenizer:
      sample_bytes = settings.tokenizer_sample_mb * 1_000_000
      share = summary | 'find share' >> beam.Map(
        # Without a training document there is no text to take a share of.
        lambda summary: sample_bytes / max(summary.train_bytes, 1)
      )
      word_counts = (
        records
        | 'count words'
        >> beam.FlatMap(transforms.count_words, beam.pvalue.AsSingleton(share))
        | 'add words' >> beam.CombinePerKey(sum)
      )
      _save(word_counts, spool, 'words')
  (saved,) = spool.read_values('summary')
  rule.check(
    pipeline.SplitSummary(
      collections.Counter(saved['counts']),
      tuple(saved['fractions']),
      saved['train_bytes'],
    )
  )
  if settings.tokenizer:
    return collections.Counter()
  return collections.Counter(dict(spool.read_values('words')))


def _encode(
  options: pipeline_options.PipelineOptions,
  spool: files.Spool,
  tokenizer_files: list[tuple[str, str]],
  shard_tokens: int,
) -> transforms.Layout:
  """Writes shards and the parts of documents.jsonl to the spool."""
  with runner.pipeline(options) as p:
    encoded = (
      p
      | 'read documents' >> avroio.ReadFromAvro(spool.join(_CLEANED) + '*')
      | 'encode'
      >> beam.ParDo(transforms.Encode(tokenizer_files, _BLOCK)).with_outputs(
        'rows', main='tokens'
      )
    )
    blocks = (
      encoded.rows
      | 'find blocks' >> beam.GroupByKey()
      | 'add up block'
      >> beam.FlatMap(transforms.add_up_block, spool).with_outputs(
        'totals', main='offsets'
      )
    )
    layout = (
      blocks.totals
      | 'list blocks' >> beam.combiners.ToList()
      | 'lay out' >> beam.Map(transforms.lay_out)
    )
    _save(layout, spool, 'layout')
    offsets = blocks.offsets | 'find offsets' >> beam.FlatMap(
      transforms.find_offsets, beam.pvalue.AsSingleton(layout)
    )
    written = (
      {'tokens': encoded.tokens, 'offset': offsets}
      | 'join' >> beam.CoGroupByKey()
      | 'cut' >> beam.FlatMap(transforms.cut, shard_tokens)
      | 'find shards' >> beam.GroupByKey()
      | 'write shard'
      >> beam.Map(
        transforms.write_shard,
        beam.pvalue.AsSingleton(layout),
        spool,
        shard_tokens,
      )
    )
    _save(written, spool, 'written')
  (result,) = spool.read_values('layout')
  return result


def _collect(
  spool: files.Spool, directory: pathlib.Path, layout: transforms.Layout
) -> preparation.Splits:
  """Moves the shards here, joins documents.jsonl; returns the splits."""
  with (directory / shards.DOCUMENTS).open('wb') as file:
    for part in layout['row_files']:
      with files.open_file(part) as opened:
        shutil.copyfileobj(opened, file)
  written = sorted(spool.read_values('written'))
  for split, meta in layout['splits'].items():
    found = [shard[1:] for shard in written if shard[0] == split]
    for number, path, tokens in found:
      name = shards.shard_name(split, number, len(found))
      files.move(path, directory / name)
      meta['shards'].append({'name': name, 'tokens': tokens})
  return layout['splits']


def number_inputs(
  inputs: list[documents.Input], block_size: int
) -> list[tuple[transforms.Position, documents.Input]]:
  """Returns each input with the position of its first document."""
  numbered = []
  segment, number = -1, block_size
  for found in inputs:
    is_document = found.kind == 'text'
    if not is_document or number == block_size:
      segment, number = segment + 1, 0
    numbered.append(((segment, number), found))
    number = number + 1 if is_document else block_size
  return numbered


def _save(values: beam.PCollection, spool: files.Spool, name: str) -> None:
  """Writes JSON lines to the spool, for `Spool.read_values`."""
  _ = (
    values
    | f'{name} as JSON' >> beam.Map(json.dumps)
    | f'save {name}' >> textio.WriteToText(spool.join(name))
  )


def _share_tokenizer(
  tokenizer: tokenization.Tokenizer, spool: files.Spool
) -> list[tuple[str, str]]:
  """Writes the tokenizer's files to the spool; returns names and paths."""
  shared = []
  with tempfile.TemporaryDirectory() as directory:
    tokenizer.save(directory)
    for file in sorted(pathlib.Path(directory).iterdir()):
      path, target = spool.create('tokenizer')
      with file.open('rb') as source, target:
        shutil.copyfileobj(source, target)
      shared.append((file.name, path))
  return shared
