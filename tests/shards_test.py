"""Shards on disk: reading returns what was written; damage is named."""

import hashlib
import json
import os
import random
import re
from unittest import mock

import numpy as np
import pytest

from gpt1_jax.corpus import metadata, shards, verification
from gpt1_jax.errors import UserError
from tests.support import books

_DOCUMENTS = (5, 1, 12, 0, 30, 7)


@pytest.fixture(autouse=True)
def _cache(monkeypatch, tmp_path):
  monkeypatch.setattr(verification, '_CACHE', tmp_path / 'verified')


def _write(path, shard_tokens=10) -> dict[str, np.ndarray]:
  """Writes prepared data of random documents; returns each split's tokens."""
  path.mkdir()
  streams, encoded = {}, []
  for n, split in enumerate(shards.SPLITS):
    rng = np.random.default_rng(n)
    parts = [rng.integers(0, 65536, k, np.uint16) for k in _DOCUMENTS]
    streams[split] = np.concatenate(parts)
    for part in parts:
      row = metadata.DocumentRow('s', 'f', 2, split, len(part))
      encoded.append((row, part))
  duplicate = metadata.DocumentRow('s', 'f', 0, 'duplicate')
  encoded.append((duplicate, np.array([], np.uint16)))
  splits = shards.write(path, shard_tokens, encoded)
  shards.write_meta(path, {'splits': splits, **books.PROVENANCE})
  return streams


@pytest.mark.parametrize('shard_tokens', [1, 7, 10, 55, 1000])
def test_every_range_reads_what_was_written(tmp_path, shard_tokens):
  streams = _write(tmp_path / 'data', shard_tokens)
  for split, stream in streams.items():
    tokens = shards.Tokens(tmp_path / 'data', split)
    assert tokens.num_tokens == len(stream) == 55
    assert tokens.num_words == 2 * len(_DOCUMENTS)
    for start in range(len(stream) + 1):
      for count in range(len(stream) + 1 - start):
        read = tokens.read(start, count)
        assert read.dtype == np.uint16
        np.testing.assert_array_equal(read, stream[start : start + count])


def test_shards_are_little_endian_and_full_but_the_last(tmp_path):
  streams = _write(tmp_path / 'data')
  meta = shards.read_meta(tmp_path / 'data')
  listed = meta['splits']['train']['shards']
  assert [s['name'] for s in listed] == [
    f'train-{i:05d}-of-00006.bin' for i in range(6)
  ]
  assert [s['tokens'] for s in listed] == [10, 10, 10, 10, 10, 5]
  data = b''.join((tmp_path / 'data' / s['name']).read_bytes() for s in listed)
  np.testing.assert_array_equal(np.frombuffer(data, '<u2'), streams['train'])


def test_document_ends(tmp_path):
  _write(tmp_path / 'data')
  ends = shards.Tokens(tmp_path / 'data', 'train').document_ends
  assert ends.dtype == np.int64
  np.testing.assert_array_equal(ends, np.cumsum(_DOCUMENTS))


def test_damaged_documents_are_named(tmp_path):
  _write(tmp_path / 'data')
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


@pytest.mark.parametrize(('start', 'count'), [(-1, 2), (0, -1), (50, 6)])
def test_reading_outside_is_an_error(tmp_path, start, count):
  _write(tmp_path / 'data')
  tokens = shards.Tokens(tmp_path / 'data', 'validation')
  with pytest.raises(IndexError):
    tokens.read(start, count)


def test_reading_does_not_load_the_shards(tmp_path, monkeypatch):
  """A sparse shard of 128 GiB opens and reads like any other."""
  _write(tmp_path / 'data')
  monkeypatch.setattr(verification, '_read', lambda _: ('', 0))
  meta = shards.read_meta(tmp_path / 'data')
  name, count = 'train-00000-of-00001.bin', 1 << 36
  with (tmp_path / 'data' / name).open('wb') as file:
    file.truncate(2 * count)
    file.seek(2 * (count - 3))
    file.write(np.array([1, 2, 3], '<u2').tobytes())
  meta['splits']['train'].update(
    tokens=count, shards=[{'name': name, 'tokens': count}]
  )
  meta['files'][name] = {'sha256': '', 'bytes': 2 * count}
  del meta['checksum']
  (tmp_path / 'data' / 'meta.json').write_text(json.dumps(meta))
  tokens = shards.Tokens(tmp_path / 'data', 'train')
  np.testing.assert_array_equal(tokens.read(count - 4, 4), [0, 1, 2, 3])


def test_an_error_while_writing_leaves_no_final_name(tmp_path):
  def interrupted():
    row = metadata.DocumentRow('s', 'f', 1, 'train', 9)
    yield row, np.arange(9, dtype=np.uint16)
    raise ZeroDivisionError

  with pytest.raises(ZeroDivisionError):
    shards.write(tmp_path, 4, interrupted())
  assert not list(tmp_path.glob('*.bin'))


def test_verify_finds_every_single_changed_byte(tmp_path):
  _write(tmp_path / 'data')
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
  _write(tmp_path / 'data')
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
  _write(tmp_path / 'data')
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
  streams = _write(tmp_path / 'data')
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
  streams = _write(tmp_path / 'data')
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
  _write(tmp_path / 'data')
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
  _write(tmp_path / 'data')
  tokens = shards.Tokens(tmp_path / 'data', 'train')
  monkeypatch.setattr(os, 'pread', mock.Mock(side_effect=OSError(5, 'I/O')))
  with pytest.raises(OSError, match='I/O') as caught:
    tokens.read(15, 20)
  name = str(tmp_path / 'data' / 'train-00001-of-00006.bin')
  assert caught.value.filename == name


def test_ids_outside_the_vocabulary_are_found(tmp_path):
  _write(tmp_path / 'data')
  meta = shards.read_meta(tmp_path / 'data')
  meta['tokenizer']['vocab_size'] = 1000
  del meta['checksum']
  (tmp_path / 'data' / 'meta.json').write_text(json.dumps(meta))
  with pytest.raises(UserError, match=r'holds token id .* has 1000'):
    shards.Tokens(tmp_path / 'data', 'train')


@pytest.mark.parametrize(
  ('path', 'value', 'words'),
  [
    (['splits', 'train'], [], 'splits.train: '),
    (['splits', 'train', 'tokens'], 7, 'not the sum of its shards'),
    (['splits', 'train', 'tokens'], '55', 'splits.train.tokens: '),
    (['splits', 'validation', 'shards'], [1], r'splits.validation.shards.0: '),
    (['files'], {}, r'splits.train.shards: train-00000-of-00006\.bin'),
    (['tokenizer'], None, 'tokenizer: '),
  ],
)
def test_meta_of_a_wrong_shape_names_the_place(tmp_path, path, value, words):
  _write(tmp_path / 'data')
  meta = inner = shards.read_meta(tmp_path / 'data')
  for key in path[:-1]:
    inner = inner[key]
  inner[path[-1]] = value
  (tmp_path / 'data' / 'meta.json').write_text(json.dumps(meta))
  with pytest.raises(UserError, match=f'meta.json: damaged .*{words}'):
    shards.Tokens(tmp_path / 'data', 'train')


def test_no_changed_number_of_meta_goes_unnoticed(tmp_path):
  """Perplexity per word, for one, divides by a number in meta.json."""
  _write(tmp_path / 'data')
  file = tmp_path / 'data' / 'meta.json'
  whole = file.read_text()
  for place in re.finditer('[0-9]', whole):
    digit = str((int(place[0]) + 1) % 10)
    file.write_text(whole[: place.start()] + digit + whole[place.end() :])
    with pytest.raises(UserError, match=r'meta\.json: (damaged|version)'):
      shards.read_meta(tmp_path / 'data')


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


def test_meta_that_cannot_be_read(tmp_path):
  with pytest.raises(UserError, match='no prepared shards'):
    shards.read_meta(tmp_path)
  file = tmp_path / 'meta.json'
  for content, words in (
    ('{"version": 1, ', 'damaged'),
    ('', 'damaged'),
    ('[]', 'version None'),
    ('{"version": 2}', 'version 2, this program reads 1'),
  ):
    file.write_text(content)
    with pytest.raises(UserError, match=words):
      shards.read_meta(tmp_path)
