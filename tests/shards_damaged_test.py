"""Damaged shards are named when they are opened, and while they are read."""

import hashlib
import json
import os
import random
from unittest import mock

import numpy as np
import pytest

from gpt1_jax.corpus import shards, verification
from gpt1_jax.errors import UserError
from tests.support import shard_files


@pytest.fixture(autouse=True)
def _cache(monkeypatch, tmp_path):
  monkeypatch.setattr(verification, '_CACHE', tmp_path / 'verified')


def test_verify_finds_every_single_changed_byte(tmp_path):
  shard_files.write(tmp_path / 'data')
  files = [p for p in (tmp_path / 'data').iterdir() if p.name != 'meta.json']
  assert shards.verify(tmp_path / 'data') == len(files) == 6 + 6 + 1
  draw = random.Random(0)
  for file in files:
    good = file.read_bytes()
    bad = bytearray(good)
    bad[draw.randrange(len(bad))] ^= 1 << draw.randrange(8)
    file.write_bytes(bad)
    with pytest.raises(UserError, match=f'{file.name}: its sha256 differs'):
      shards.verify(tmp_path / 'data')
    file.write_bytes(good[:-1])
    with pytest.raises(UserError, match=f'{file.name}: .* expected'):
      shards.verify(tmp_path / 'data')
    file.unlink()
    with pytest.raises(UserError, match=f'{file.name}: missing'):
      shards.verify(tmp_path / 'data')
    file.write_bytes(good)
  shards.verify(tmp_path / 'data')


def test_a_truncated_or_missing_shard_is_not_opened(tmp_path):
  shard_files.write(tmp_path / 'data')
  file = tmp_path / 'data' / 'train-00002-of-00006.bin'
  file.write_bytes(file.read_bytes()[:-2])
  with pytest.raises(UserError, match='18 bytes, 20 bytes expected'):
    shards.Tokens(tmp_path / 'data', 'train')
  shards.Tokens(tmp_path / 'data', 'validation')
  file.unlink()
  with pytest.raises(UserError, match=r'00002-of-00006\.bin: missing'):
    shards.Tokens(tmp_path / 'data', 'train')


def test_a_changed_byte_is_found_when_a_shard_is_opened(tmp_path, monkeypatch):
  """A shard is read once; what was found holds until the file changes."""
  shard_files.write(tmp_path / 'data')
  shards.Tokens(tmp_path / 'data', 'train')
  with monkeypatch.context() as patch:
    patch.setattr(verification, '_read', None)
    shards.Tokens(tmp_path / 'data', 'train')
  file = tmp_path / 'data' / 'train-00002-of-00006.bin'
  good = file.read_bytes()
  file.write_bytes(bytes([good[0] ^ 1]) + good[1:])
  for _ in range(2):
    with pytest.raises(UserError, match=r'00002-of-00006\.bin: its sha256'):
      shards.Tokens(tmp_path / 'data', 'train')
  file.write_bytes(good)
  shards.Tokens(tmp_path / 'data', 'train')


@pytest.mark.parametrize('change', ['a byte', 'cut', 'emptied'])
def test_a_shard_that_changes_while_it_is_read_is_named(tmp_path, change):
  """Without a check, other tokens are read."""
  streams = shard_files.write(tmp_path / 'data')
  tokens = shards.Tokens(tmp_path / 'data', 'train')
  file = tmp_path / 'data' / 'train-00002-of-00006.bin'
  good = file.read_bytes()
  with file.open('r+b') as opened:
    if change == 'a byte':
      opened.write(bytes([good[0] ^ 1]))
    else:
      opened.truncate(7 if change == 'cut' else 0)
  os.utime(file, ns=(0, 0))  # the clock of a file system is coarse
  np.testing.assert_array_equal(tokens.read(0, 20), streams['train'][:20])
  for _ in range(2):
    with pytest.raises(UserError, match=r'00002-of-00006\.bin: its sha256'):
      tokens.read(15, 20)
  file.write_bytes(good)
  np.testing.assert_array_equal(tokens.read(15, 20), streams['train'][15:35])
  file.unlink()  # the content stays until the process ends
  np.testing.assert_array_equal(tokens.read(15, 20), streams['train'][15:35])


def test_no_moment_of_a_truncation_ends_the_process(tmp_path, monkeypatch):
  """A page that a file lost kills a process that has it in its memory."""
  streams = shard_files.write(tmp_path / 'data')
  tokens = shards.Tokens(tmp_path / 'data', 'train')
  file = tmp_path / 'data' / 'train-00002-of-00006.bin'
  good, state = file.read_bytes(), verification.Shard._stat

  def truncate(shard):
    found = state(shard)
    os.truncate(file, 0)  # just after each look
    return found

  with monkeypatch.context() as patch:
    patch.setattr(verification.Shard, '_stat', truncate)
    np.testing.assert_array_equal(tokens.read(20, 10), streams['train'][20:30])
    with pytest.raises(UserError, match=r'00002-of-00006\.bin: its sha256'):
      tokens.read(20, 10)
  file.write_bytes(good)
  np.testing.assert_array_equal(tokens.read(15, 20), streams['train'][15:35])


@pytest.mark.parametrize('then', ['removed', 'replaced'])
def test_what_was_opened_is_checked(tmp_path, then):
  """Not the file that has its name by now."""
  shard_files.write(tmp_path / 'data')
  tokens = shards.Tokens(tmp_path / 'data', 'train')
  file = tmp_path / 'data' / 'train-00002-of-00006.bin'
  good = file.read_bytes()
  file.write_bytes(bytes([good[0] ^ 1]) + good[1:])
  os.utime(file, ns=(0, 0))
  file.unlink()
  if then == 'replaced':
    file.write_bytes(good)
  with pytest.raises(UserError, match=r'00002-of-00006\.bin: its sha256'):
    tokens.read(15, 20)


def test_an_error_of_the_disk_names_the_shard(tmp_path, monkeypatch):
  shard_files.write(tmp_path / 'data')
  tokens = shards.Tokens(tmp_path / 'data', 'train')
  monkeypatch.setattr(os, 'pread', mock.Mock(side_effect=OSError(5, 'I/O')))
  with pytest.raises(OSError, match='I/O') as caught:
    tokens.read(15, 20)
  name = str(tmp_path / 'data' / 'train-00001-of-00006.bin')
  assert caught.value.filename == name


def test_ids_outside_the_vocabulary_are_found(tmp_path):
  shard_files.write(tmp_path / 'data')
  meta = shards.read_meta(tmp_path / 'data')
  meta['tokenizer']['vocab_size'] = 1000
  del meta['checksum']
  (tmp_path / 'data' / 'meta.json').write_text(json.dumps(meta))
  with pytest.raises(UserError, match=r'holds token id .* has 1000'):
    shards.Tokens(tmp_path / 'data', 'train')


def test_damaged_documents_are_named(tmp_path):
  shard_files.write(tmp_path / 'data')
  tokens = shards.Tokens(tmp_path / 'data', 'train')
  file = tmp_path / 'data' / shards.DOCUMENTS
  content = file.read_bytes()
  changed = content.replace(b'12', b'13')
  for damaged in (changed, content[:-9], b'[]\n', b''):
    file.write_bytes(damaged)
    what = 'its sha256 differs' if damaged == changed else r'\d+ bytes, '
    with pytest.raises(UserError, match=rf'documents\.jsonl: {what}'):
      _ = tokens.document_ends
  file.unlink()
  with pytest.raises(UserError, match=r'documents\.jsonl: missing'):
    _ = tokens.document_ends


@pytest.mark.parametrize(
  'note',
  [
    '["0", 1]',
    '["SHA", "x"]',
    '["SHA", null]',
    '["SHA", 60000]',
    '[]',
    '[' * 9999,
  ],
)
def test_a_damaged_note_of_a_checked_shard_is_replaced(tmp_path, note):
  shard = tmp_path / 'a.bin'
  shard.write_bytes(bytes(6))
  sha256 = hashlib.sha256(bytes(6)).hexdigest()
  verification.Shard(shard, sha256, 9)
  (file,) = (tmp_path / 'verified').iterdir()
  good = file.read_text()
  file.write_text(note.replace('SHA', sha256))
  verification.Shard(shard, sha256, 9)
  assert file.read_text() == good
