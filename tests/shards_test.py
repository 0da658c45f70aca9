"""Shards on disk: reading returns what was written; meta.json is checked."""

import json
import re

import numpy as np
import pytest

from gpt1_jax.corpus import metadata, shards, verification
from gpt1_jax.errors import UserError
from tests.support import shard_files


@pytest.fixture(autouse=True)
def _cache(monkeypatch, tmp_path):
  monkeypatch.setattr(verification, '_CACHE', tmp_path / 'verified')


@pytest.mark.parametrize('shard_tokens', [1, 7, 10, 55, 1000])
def test_every_range_reads_what_was_written(tmp_path, shard_tokens):
  streams = shard_files.write(tmp_path / 'data', shard_tokens)
  for split, stream in streams.items():
    tokens = shards.Tokens(tmp_path / 'data', split)
    assert tokens.num_tokens == len(stream) == 55
    assert tokens.num_words == 2 * len(shard_files.DOCUMENTS)
    for start in range(len(stream) + 1):
      for count in range(len(stream) + 1 - start):
        read = tokens.read(start, count)
        assert read.dtype == np.uint16
        np.testing.assert_array_equal(read, stream[start : start + count])


def test_shards_are_little_endian_and_full_but_the_last(tmp_path):
  streams = shard_files.write(tmp_path / 'data')
  meta = shards.read_meta(tmp_path / 'data')
  listed = meta['splits']['train']['shards']
  assert [s['name'] for s in listed] == [
    f'train-{i:05d}-of-00006.bin' for i in range(6)
  ]
  assert [s['tokens'] for s in listed] == [10, 10, 10, 10, 10, 5]
  data = b''.join((tmp_path / 'data' / s['name']).read_bytes() for s in listed)
  np.testing.assert_array_equal(np.frombuffer(data, '<u2'), streams['train'])


def test_document_ends(tmp_path):
  shard_files.write(tmp_path / 'data')
  ends = shards.Tokens(tmp_path / 'data', 'train').document_ends
  assert ends.dtype == np.int64
  np.testing.assert_array_equal(ends, np.cumsum(shard_files.DOCUMENTS))


def test_tokens_are_counted_in_parts(tmp_path, monkeypatch):
  monkeypatch.setattr(shards, '_BLOCK', 7)
  stream = shard_files.write(tmp_path / 'data')['train']
  size = int(max(stream)) + 1
  counts = shards.Tokens(tmp_path / 'data', 'train').counts(size)
  assert counts.tolist() == [list(stream).count(i) for i in range(size)]


@pytest.mark.parametrize(('start', 'count'), [(-1, 2), (0, -1), (50, 6)])
def test_reading_outside_is_an_error(tmp_path, start, count):
  shard_files.write(tmp_path / 'data')
  tokens = shards.Tokens(tmp_path / 'data', 'validation')
  with pytest.raises(IndexError):
    tokens.read(start, count)


def test_reading_does_not_load_the_shards(tmp_path, monkeypatch):
  """A sparse shard of 128 GiB opens and reads like any other."""
  shard_files.write(tmp_path / 'data')
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
  shard_files.write(tmp_path / 'data')
  meta = inner = shards.read_meta(tmp_path / 'data')
  for key in path[:-1]:
    inner = inner[key]
  inner[path[-1]] = value
  (tmp_path / 'data' / 'meta.json').write_text(json.dumps(meta))
  with pytest.raises(UserError, match=f'meta.json: damaged .*{words}'):
    shards.Tokens(tmp_path / 'data', 'train')


def test_no_changed_number_of_meta_goes_unnoticed(tmp_path):
  """Perplexity per word, for one, divides by a number in meta.json."""
  shard_files.write(tmp_path / 'data')
  file = tmp_path / 'data' / 'meta.json'
  whole = file.read_text()
  for place in re.finditer('[0-9]', whole):
    digit = str((int(place[0]) + 1) % 10)
    file.write_text(whole[: place.start()] + digit + whole[place.end() :])
    with pytest.raises(UserError, match=r'meta\.json: (damaged|version)'):
      shards.read_meta(tmp_path / 'data')


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
