"""Runs `prepare` on Apache Beam: one pipeline cleans, another encodes.

Between the two, this machine trains the tokenizer, and the cleaned text waits
in a spool of Avro files. `corpus.pipeline` processes each document as on the
local engine. A document carries its position (input, number in the input) from
where it is read; this machine uses it to put the encoded documents back in
order, on disk.

A worker holds one document with its tokens and, on its disk, a copy of one
input file if the inputs are not local. One worker reads a file of rows; all
workers clean its documents. This machine holds the words to train on and about
40 bytes for each document and, on its disk, the tokens twice until the end.
"""

import array
import collections
import dataclasses
import json
import pathlib
import tempfile
from collections.abc import Iterable, Iterator
from typing import Any

import apache_beam as beam
import numpy as np
from apache_beam.io import avroio, textio
from apache_beam.options import pipeline_options

from gpt1_jax.corpus import (
  documents,
  inputs,
  pipeline,
  preparation,
  sentencepiece_tokenizer,
  shards,
  splits,
  tokenization,
)
from gpt1_jax.corpus.beam import files, runner
from gpt1_jax.corpus.metadata import DocumentRow

Position = tuple[int, int]  # of a document: input, number in the input

_CLEANED, _ENCODED = 'cleaned', 'encoded'  # prefixes of the spool's Avro files
_REJECTED = 'rejected'  # prefix of the spool's JSON files


@dataclasses.dataclass(frozen=True)
class BeamEngine:
  """Runs `prepare` on the workers of a Beam runner."""

  options: pipeline_options.PipelineOptions

  measure = staticmethod(files.measure)

  def run(
    self, directory: pathlib.Path, settings: pipeline.PrepareSettings
  ) -> tuple[tokenization.Tokenizer, shards.Splits]:
    """Writes the tokenizer, the shards and documents.jsonl."""
    tokenizer = settings.load_tokenizer()
    with files.temporary_spool(self.options, directory) as spool:
      word_counts, rule = self._clean(spool, directory, settings)
      if tokenizer is None:
        tokenizer = preparation.train_tokenizer(word_counts, settings)
      del word_counts
      tokenizer.save(directory)
      self._encode(spool, tokenizer.files, rule)
      records = spool.read_avro(_ENCODED)
      splits = write_in_order(records, directory, settings.shard_tokens)
    return tokenizer, splits

  def _clean(
    self,
    spool: files.Spool,
    directory: pathlib.Path,
    settings: pipeline.PrepareSettings,
  ) -> tuple[collections.Counter[str], splits.SplitRule]:
    """Writes cleaned documents to the spool; counts the words to train on.

    Returns:
      Occurrences of each word (empty if the settings name a tokenizer), and the
      rule of the split.

    Raises:
      UserError: too many documents are bad, or a split would be empty.
    """
    found, rule = pipeline.plan(files.find(settings.inputs), settings)
    with runner.pipeline(self.options) as p:
      cleaned = (
        p
        | 'list files' >> beam.Create(list(enumerate(found)))
        | 'spread files' >> beam.Reshuffle()
        | 'read' >> beam.FlatMap(_read, settings.text_field)
        | 'spread documents' >> beam.Reshuffle()
        | 'clean'
        >> beam.FlatMap(_clean_document, settings).with_outputs(
          _REJECTED, main=_CLEANED
        )
      )
      _save(cleaned[_REJECTED], spool, _REJECTED)
      records = (
        cleaned[_CLEANED]
        | 'find copies' >> beam.GroupByKey()
        | 'split' >> beam.FlatMap(_assign_split, rule)
      )
      _ = records | 'save documents' >> avroio.WriteToAvro(
        spool.join(_CLEANED), files.SCHEMA, codec='null'
      )
      summary = (
        records
        | 'summarize' >> beam.Map(lambda record: rule.summarize(_row(record)))
        | 'add summaries'
        >> beam.CombineGlobally(lambda each: sum(each, splits.SplitSummary()))
      )
      fields = summary | 'fields' >> beam.Map(
        lambda summary: [summary.counts, summary.extremes, summary.train_bytes]
      )
      _save(fields, spool, 'summary')
      if not settings.tokenizer:
        sample_bytes = settings.tokenizer_sample_mb * 1_000_000
        rule_and_share = summary | 'settle' >> beam.Map(
          # avoids dividing by 0 if there is no training document
          lambda total: (
            rule.settle(total),
            sample_bytes / max(total.train_bytes, 1),
          )
        )
        word_counts = (
          records
          | 'count words'
          >> beam.FlatMap(_count_words, beam.pvalue.AsSingleton(rule_and_share))
          | 'add words' >> beam.CombinePerKey(sum)
        )
        _save(word_counts, spool, 'words')
    ((counts, extremes, train_bytes),) = spool.read_json('summary')
    total = splits.SplitSummary(
      collections.Counter(counts), tuple(map(tuple, extremes)), train_bytes
    )
    rejected = [row for _, row in sorted(spool.read_json(_REJECTED))]
    rejected = [pipeline.Rejected(*row) for row in rejected]
    num_documents = total.num_documents + len(rejected)
    pipeline.check_rejected(rejected, num_documents, settings)
    pipeline.write_rejected(directory, rejected)
    rule.check(total)
    rule = rule.settle(total)
    if settings.tokenizer:
      return collections.Counter(), rule
    return collections.Counter(dict(spool.read_json('words'))), rule

  def _encode(
    self,
    spool: files.Spool,
    tokenizer_files: dict[str, bytes],
    rule: splits.SplitRule,
  ) -> None:
    """Encodes the cleaned documents of the spool."""
    with runner.pipeline(self.options) as p:
      _ = (
        p
        | 'read documents' >> avroio.ReadFromAvro(spool.join(_CLEANED) + '*')
        | 'encode' >> beam.ParDo(_Encode(tokenizer_files, rule))
        | 'save tokens'
        >> avroio.WriteToAvro(spool.join(_ENCODED), files.SCHEMA, codec='null')
      )


def _save(values: beam.PCollection, spool: files.Spool, name: str) -> None:
  """Writes JSON lines to the spool, for `Spool.read_json`."""
  _ = (
    values
    | f'{name} as JSON' >> beam.Map(json.dumps)
    | f'save {name}' >> textio.WriteToText(spool.join(name))
  )


def _read(
  element: tuple[int, inputs.Input], text_field: str
) -> Iterator[tuple[Position, documents.Document]]:
  """Reads the documents of an input."""
  i, found = element
  if found.kind == 'text':  # the worker that cleans it reads it
    document = documents.Document(found.source, None, found.name)
    yield (i, 0), dataclasses.replace(document, span=found.span)
    return
  with files.local_copy(found.name) as path:
    for number, document in enumerate(documents.read(found, path, text_field)):
      yield (i, number), document


def _clean_document(
  element: tuple[Position, documents.Document],
  settings: pipeline.PrepareSettings,
) -> Iterator[tuple[bytes, tuple[Position, DocumentRow, bytes]] | Any]:
  """Cleans a document; its key is the digest that copies share."""
  position, document = element
  with files.local_copy(document.path) as path:
    local = dataclasses.replace(document, path=path)
    cleaned = pipeline.clean_document(local, settings)
  if isinstance(cleaned, pipeline.Rejected):
    yield beam.pvalue.TaggedOutput(_REJECTED, (position, cleaned))
  else:
    row, text = cleaned
    yield row.digest, (position, row, text)


def _assign_split(
  copies: tuple[bytes, Iterable[tuple[Position, DocumentRow, bytes]]],
  rule: splits.SplitRule,
) -> Iterator[files.Record]:
  """Keeps the text of the first copy of a document; marks the others."""
  _, found = copies
  first = min(position for position, _, _ in found)
  for position, row, text in found:
    is_copy = position != first
    assigned = rule.assign(row, is_copy)
    yield _record(position, assigned, b'' if is_copy else text)


def _record(
  position: Position, row: DocumentRow, content: bytes
) -> files.Record:
  return {
    'input': position[0],
    'number': position[1],
    'row': json.dumps(dataclasses.asdict(row)),
    'content': content,
  }


def _row(record: files.Record) -> DocumentRow:
  return DocumentRow(**json.loads(record['row']))


def _count_words(
  record: files.Record, rule_and_share: tuple[splits.SplitRule, float]
) -> Iterator[tuple[str, int]]:
  """Counts the words in a share of a training document's paragraphs."""
  rule, share = rule_and_share
  if rule.reassign(_row(record)).split == 'train':
    lines = pipeline.sampled_lines(record['content'].decode(), share)
    yield from sentencepiece_tokenizer.count_words(lines).items()


class _Encode(beam.DoFn):
  """Replaces the text of a record by its tokens."""

  def __init__(self, tokenizer_files: dict[str, bytes], rule: splits.SplitRule):
    self._tokenizer_files, self._rule = tokenizer_files, rule

  def setup(self) -> None:
    self._tokenizer = tokenization.from_files(self._tokenizer_files)

  def process(self, record: files.Record) -> Iterator[files.Record]:
    row, tokens = pipeline.encode_document(
      self._tokenizer,
      self._rule.reassign(_row(record)),
      record['content'].decode(),
    )
    content = tokens.astype(shards.DTYPE).tobytes()
    yield _record((record['input'], record['number']), row, content)


def write_in_order(
  records: Iterable[files.Record], directory: pathlib.Path, shard_tokens: int
) -> shards.Splits:
  """Writes encoded documents, received in any order, in the input's order."""
  index = array.array('q')  # input, number, offset, bytes of row and of tokens
  with tempfile.TemporaryFile(dir=directory) as file:
    for record in records:
      row, tokens = record['row'].encode(), record['content']
      position = (record['input'], record['number'])
      index.extend((*position, file.tell(), len(row), len(tokens)))
      file.write(row + tokens)

    def read() -> Iterator[tuple[DocumentRow, np.ndarray]]:
      table = np.frombuffer(index, np.int64).reshape(-1, 5)
      for i in np.lexsort((table[:, 1], table[:, 0])):
        _, _, offset, row_bytes, token_bytes = map(int, table[i])
        file.seek(offset)
        row = DocumentRow(**json.loads(file.read(row_bytes)))
        yield row, np.frombuffer(file.read(token_bytes), shards.DTYPE)

    return shards.write(directory, shard_tokens, read())
