"""The stages of `prepare` as two Beam pipelines: clean, and encode.

Between them the tokenizer is trained on the machine that launched them, and the
cleaned text waits in a spool of Avro files. What is done to a document is in
`steps`, as in the local engine; what is here keeps the order over a crowd of
workers. A document carries its place (run, number): a run is a file of rows, or
up to `_BLOCK` files that are documents, so the place is known where the
document is read. A block is up to `_BLOCK` documents of a run, and blocks are
few enough to be listed on one machine: a document's tokens come after those of
the blocks before its own and of the documents before it in its block.

A worker holds one document with its tokens, the rows of one block (about 10 MB)
and the list of blocks (about 200 bytes each); on its disk, one shard, or one
input file where inputs lie elsewhere. A file of rows is read by one worker; its
documents are cleaned by all.
"""

import collections
import json
import pathlib
import shutil
import tempfile
from typing import Any

import apache_beam as beam
from apache_beam.io import avroio, textio
from apache_beam.options import pipeline_options

from gpt1_jax.corpus import (
  pipeline,
  shards,
  tokenization,
)
from gpt1_jax.corpus.beam import places, running, work

_BLOCK = 1 << 14
_CLEANED = 'cleaned'  # files of the spool
_SCHEMA = {
  'type': 'record',
  'name': 'Document',
  'fields': [
    {'name': 'run', 'type': 'long'},
    {'name': 'number', 'type': 'long'},
    {'name': 'row', 'type': 'string'},  # JSON
    {'name': 'text', 'type': 'bytes'},  # UTF-8; empty: a duplicate
  ],
}


def clean(
  options: pipeline_options.PipelineOptions,
  spool: places.Spool,
  files: list[tuple[str, str]],
  settings: dict[str, Any],
) -> collections.Counter[str]:
  """Inputs → cleaned documents in the spool, and the words to train on.

  Args:
    options: of the pipeline.
    spool: empty.
    files: (kind, where) of each input, in order.
    settings: of `prepare`.

  Returns:
    How often each word occurs; nothing where the settings name a tokenizer.

  Raises:
    UserError: a document is damaged or empty, or a split has none.
  """
  rule = pipeline.SplitRule.of(settings)
  with running.pipeline(options) as p:
    documents = (
      p
      | 'list files' >> beam.Create(_in_runs(files))
      | 'spread files' >> beam.Reshuffle()
      | 'read' >> beam.ParDo(work.Read(settings['text_field']))
      | 'spread documents' >> beam.Reshuffle()
      | 'clean' >> beam.ParDo(work.Clean())
      | 'find copies' >> beam.GroupByKey()
      | 'split' >> beam.ParDo(work.Split(rule))
    )
    _ = documents | 'save documents' >> avroio.WriteToAvro(
      spool.of(_CLEANED), _SCHEMA, codec='null'
    )
    facts = documents | 'find facts' >> beam.CombineGlobally(work.Facts(rule))
    _save(facts, spool, 'facts')
    if not settings['tokenizer']:
      sample = settings['tokenizer_sample_mb'] * 1_000_000
      share = facts | 'find share' >> beam.Map(
        # Without a training document there is nothing to take a share of.
        lambda facts: sample / max(facts['train_bytes'], 1)
      )
      words = (
        documents
        | 'count words'
        >> beam.ParDo(work.Words(), beam.pvalue.AsSingleton(share))
        | 'add words' >> beam.CombinePerKey(sum)
      )
      _save(words, spool, 'words')
  (facts,) = spool.values('facts')
  counts = collections.Counter(facts['counts'])
  pipeline.check_splits(counts, facts['shares'], rule)
  if settings['tokenizer']:
    return collections.Counter()
  return collections.Counter(dict(spool.values('words')))


def encode(
  options: pipeline_options.PipelineOptions,
  spool: places.Spool,
  directory: pathlib.Path,
  tokenizer: tokenization.Tokenizer,
  shard_tokens: int,
) -> dict[str, Any]:
  """Spool → shards and documents.jsonl in a directory of this machine.

  Returns:
    For each split its tokens, words, documents and shards.
  """
  files = _save_tokenizer(tokenizer, spool)
  with running.pipeline(options) as pipeline:
    encoded = (
      pipeline
      | 'read documents' >> avroio.ReadFromAvro(spool.of(_CLEANED) + '*')
      | 'encode'
      >> beam.ParDo(work.Encode(files, _BLOCK)).with_outputs(
        'rows', main='tokens'
      )
    )
    blocks = (
      encoded.rows
      | 'find blocks' >> beam.GroupByKey()
      | 'add up block'
      >> beam.ParDo(work.Block(spool)).with_outputs('totals', main='starts')
    )
    table = (
      blocks.totals
      | 'list blocks' >> beam.combiners.ToList()
      | 'add up blocks' >> beam.Map(work.table)
    )
    _save(table, spool, 'table')
    starts = blocks.starts | 'find starts' >> beam.ParDo(
      work.Start(), beam.pvalue.AsSingleton(table)
    )
    written = (
      {'tokens': encoded.tokens, 'start': starts}
      | 'join' >> beam.CoGroupByKey()
      | 'cut' >> beam.ParDo(work.Cut(shard_tokens))
      | 'find shards' >> beam.GroupByKey()
      | 'write shard'
      >> beam.ParDo(
        work.Shard(spool, shard_tokens), beam.pvalue.AsSingleton(table)
      )
    )
    _save(written, spool, 'list')
  (table,) = spool.values('table')
  with (directory / shards.DOCUMENTS).open('wb') as file:
    for part in table['parts']:
      with places.open_file(part) as opened:
        shutil.copyfileobj(opened, file)
  found = sorted(spool.values('list'))
  for split, facts in table['splits'].items():
    mine = [shard for shard in found if shard[0] == split]
    facts['shards'] = []
    for _, i, path, tokens in mine:
      name = shards.shard_name(split, i, len(mine))
      places.fetch(path, directory / name)
      facts['shards'].append({'name': name, 'tokens': tokens})
  return table['splits']


def _in_runs(
  files: list[tuple[str, str]],
) -> list[tuple[int, int, str, str]]:
  """Run, number of the first document, kind and where of each input."""
  out = []
  run, number = -1, _BLOCK
  for kind, where in files:
    single = kind == 'text'
    if not single or number == _BLOCK:
      run, number = run + 1, 0
    out.append((run, number, kind, where))
    number = number + 1 if single else _BLOCK
  return out


def _save(values: beam.PCollection, spool: places.Spool, name: str) -> None:
  """JSON lines in the spool, for `Spool.values`."""
  _ = (
    values
    | f'spell {name}' >> beam.Map(json.dumps)
    | f'save {name}' >> textio.WriteToText(spool.of(name))
  )


def _save_tokenizer(
  tokenizer: tokenization.Tokenizer, spool: places.Spool
) -> list[tuple[str, str]]:
  """Its files into the spool; name and path of each."""
  out = []
  with tempfile.TemporaryDirectory() as directory:
    tokenizer.save(directory)
    for file in sorted(pathlib.Path(directory).iterdir()):
      path, target = spool.create('tokenizer')
      with file.open('rb') as source, target:
        shutil.copyfileobj(source, target)
      out.append((file.name, path))
  return out
