"""Prepares data: checks the output, runs an engine, writes meta.json."""

import collections
import contextlib
import os
import pathlib
import time
from collections.abc import Iterable
from typing import Protocol

from gpt1_jax import building, storage
from gpt1_jax.corpus import (
  cleaning,
  inputs,
  sentencepiece_tokenizer,
  shards,
  tokenization,
)
from gpt1_jax.corpus.inputs import InputSize
from gpt1_jax.corpus.pipeline import PrepareSettings
from gpt1_jax.errors import UserError


class Engine(Protocol):
  """Runs the pipeline on one machine or many; the output is the same."""

  def measure(self, inputs: Iterable[str]) -> InputSize:
    """Returns the number, size and sha256 of the input files."""

  def run(
    self, directory: pathlib.Path, settings: PrepareSettings
  ) -> tuple[tokenization.Tokenizer, shards.Splits]:
    """Writes the tokenizer, the shards and documents.jsonl.

    Args:
      directory: an empty directory on this machine.
      settings: valid settings.

    Raises:
      UserError: an input cannot be read, or a split would be empty.
    """


def prepare(
  output: pathlib.Path, settings: PrepareSettings, engine: Engine
) -> None:
  """Writes prepared data to `output`, unless it is complete already.

  Raises:
    UserError: `output` holds something else, or the engine rejects the input.
    RunError: the disk is full.
  """
  if (output / shards.META).exists():
    _check_complete(output, settings, engine)
    print(f'{output}: already complete, nothing to do')
    return
  for spec in settings.inputs:
    if os.path.isdir(spec) and output.is_relative_to(os.path.realpath(spec)):
      raise UserError(f'{output}: lies in --input={spec}; use another --output')
  if not storage.is_free(output):
    raise UserError(
      f'{output}: exists and holds no prepared data; use another --output'
    )
  if unread := inputs.unread(settings.inputs):
    more = f' and {len(unread) - 5} more' if len(unread) > 5 else ''
    print(f'skipped, unknown kind: {", ".join(unread[:5])}{more}')
  _warn_of_gutenberg(settings)
  with building.atomic_dir(output) as directory:
    fill(directory, settings, engine)
  print(f'{output}: done')


def _warn_of_gutenberg(settings: PrepareSettings) -> None:
  """Prints a line if the licence of Project Gutenberg would be learnt."""
  names: list[str] = []
  if not settings.strip_gutenberg:
    with contextlib.suppress(UserError, OSError):  # the engine reports them
      names = inputs.of_gutenberg(settings.inputs)
  if names:
    print(
      "warning: text that Project Gutenberg adds is in the input's files "
      f'({len(names)}, such as {names[0]}); --strip_gutenberg removes it'
    )


def fill(
  directory: pathlib.Path, settings: PrepareSettings, engine: Engine
) -> None:
  """Writes prepared data into an empty directory."""
  size = engine.measure(settings.inputs)
  tokenizer, splits = engine.run(directory, settings)
  shards.write_meta(
    directory,
    {
      'splits': splits,
      'tokenizer': tokenizer.description(),
      'cleaning': cleaning.CLEANING_VERSION,
      'validation_fraction': settings.validation_fraction,
      'settings': settings.as_dict(),
      'input': size,
    },
  )
  for split, meta in splits.items():
    documents = 'document' if meta['documents'] == 1 else 'documents'
    print(
      f'{split}: {meta["documents"]:,} {documents}, {meta["words"]:,} words, '
      f'{meta["tokens"]:,} tokens'
    )


def train_tokenizer(
  word_counts: collections.Counter[str], settings: PrepareSettings
) -> tokenization.Tokenizer:
  """Trains the tokenizer that the settings ask for, and prints its size."""
  assert settings.merges is not None
  started = time.perf_counter()
  tokenizer = sentencepiece_tokenizer.train(word_counts, settings.merges)
  print(
    f'tokenizer: {tokenizer.merges:,} merges, {tokenizer.vocab_size:,} tokens, '
    f'{time.perf_counter() - started:.0f} s'
  )
  return tokenizer


def _check_complete(
  output: pathlib.Path, settings: PrepareSettings, engine: Engine
) -> None:
  """Raises UserError if the output has other settings or another input."""
  meta = shards.read_meta(output)
  different = [
    name
    for name, value in settings.as_dict().items()
    if value != meta['settings'].get(name)
  ]
  if different:
    raise UserError(
      f'{output}: was prepared with other settings ({", ".join(different)}); '
      'use another --output or remove it'
    )
  before = now = meta['input']
  with contextlib.suppress(UserError):  # the input may be gone by now
    now = engine.measure(settings.inputs)
  if now != before:
    raise UserError(
      f'{output}: its input has changed since it was prepared (it had '
      f'{before["files"]} files, {before["bytes"]} bytes; now {now["files"]}, '
      f'{now["bytes"]}); use another --output or remove it'
    )
