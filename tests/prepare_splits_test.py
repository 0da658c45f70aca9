"""Tests which documents `prepare` holds out for validation."""

import hashlib
import pathlib
import shutil

import pytest

from gpt1_jax.corpus import cleaning, metadata, shards, splits, tokenization
from gpt1_jax.errors import UserError
from tests.support import books as library, preparations
from tests.support.preparations import FLAGS, prepare, refused


def _held_out(output: pathlib.Path) -> set[str]:
  return {
    name for name, x in preparations.splits(output).items() if x == 'validation'
  }


def test_the_split_is_a_function_of_the_hash():
  rows = [
    metadata.DocumentRow('x', hashlib.sha256(b'%d' % i).hexdigest(), 1)
    for i in range(4000)
  ]

  def held_out(fraction):
    rule = splits.SplitRule(fraction)
    assigned = [rule.assign(row, is_copy=False) for row in rows]
    return {row.sha256 for row in assigned if row.split == 'validation'}

  for fraction in (0.01, 0.05, 0.5):
    held = held_out(fraction)
    assert len(held) / len(rows) == pytest.approx(fraction, abs=0.02)
    assert held < held_out(0.6)


def test_the_tokenizer_sees_the_training_split_only(tmp_path):
  folder = library.write_books(tmp_path / 'b', range(24))
  marks = {}
  for i, file in enumerate(sorted(folder.glob('*.txt'))):
    marks[file.name] = chr(ord('\u0430') + i)  # a letter in no other book
    file.write_text(f'{file.read_text()} {marks[file.name]}')
  prepare(f'--input={folder}', f'--output={tmp_path}/out', *FLAGS)
  bpe = tokenization.load(tmp_path / 'out')
  for name, split in preparations.splits(tmp_path / 'out').items():
    unknown = bpe.unknown_id in bpe.encode(marks[name])
    assert unknown == (split == 'validation')


def test_documents_are_held_out_by_name(books, tmp_path):
  out = tmp_path / 'out'
  flags = (f'--input={books}', '--merges=60', f'--output={out}')
  named = ('--hold_out=*/003.txt', '--hold_out=*/01?.txt')
  prepare(*flags, *named, '--validation_fraction=0')
  by_name = _held_out(out)
  assert by_name == {'003.txt', *(f'01{i}.txt' for i in range(10))}
  shutil.rmtree(out)
  prepare(*flags, *FLAGS)
  by_hash = _held_out(out)
  assert by_hash - by_name
  line = refused(*flags, *named, *FLAGS)
  assert 'prepared with other settings (hold_out)' in line
  shutil.rmtree(out)
  prepare(*flags, *named, *FLAGS)
  assert _held_out(out) == by_name | by_hash
  shutil.rmtree(out)
  line = refused(*flags, *named, '--hold_out=003.txt')
  assert '--hold_out=003.txt: matches the source of no document' in line
  line = refused(*flags, '--hold_out=*')
  assert '--hold_out leaves no document for it' in line


def test_an_empty_train_split_names_a_fraction_that_fills_it(books, tmp_path):
  settings = library.settings([books], validation_fraction=0.999999)
  with pytest.raises(UserError, match='the train split is empty') as caught:
    preparations.fill(tmp_path / 'none', settings)
  line = str(caught.value)
  assert 'all 24 documents' in line
  advice = float(line.split('--validation_fraction=')[1].split()[0])
  settings = library.settings([books], validation_fraction=advice)
  assert 'train' in preparations.fill(tmp_path / 'out', settings).values()


def test_a_book_is_held_out_if_the_fraction_holds_out_none(tmp_path, capsys):
  """The one with the smallest hash; it does not train the tokenizer."""
  folder = library.write_books(tmp_path / 'books', range(3))
  (folder / '009.txt').write_text((folder / '000.txt').read_text() + ' ')
  settings = library.settings([folder], validation_fraction=1e-9)
  splits = preparations.fill(tmp_path / 'out', settings)
  assert sorted(splits.values()) == [
    'duplicate', 'train', 'train', 'validation'
  ]  # fmt: skip
  rows = list(shards.read_documents(tmp_path / 'out'))
  kept = [row for row in rows if row.split != 'duplicate']
  smallest = min(kept, key=lambda row: row.hash_fraction)
  assert smallest.split == 'validation'
  assert (
    f'validation text: {smallest.source}, one of' in capsys.readouterr().out
  )
  named = library.settings(
    [folder], validation_fraction=0.0, hold_out=(smallest.source,)
  )
  preparations.fill(tmp_path / 'named', named)
  for name in ('tokenizer.model', 'documents.jsonl'):
    data = (tmp_path / 'named' / name).read_bytes()
    assert data == (tmp_path / 'out' / name).read_bytes()


def test_the_last_part_of_a_single_file_is_held_out(tmp_path):
  book = library.write_books(tmp_path / 'b', [1]) / '001.txt'
  text = book.read_text().removesuffix('.')
  book.write_text(text)
  out = tmp_path / 'out'
  said = prepare(f'--input={book}', f'--output={out}', '--merges=20',
                  '--validation_fraction=0.25')  # fmt: skip
  assert 'validation text: the last 25% of the only file' in said
  assert preparations.splits(out) == {'001.txt#train': 'train',
                          '001.txt#validation': 'validation'}  # fmt: skip
  bpe = tokenization.load(out)
  decoded = []
  for split in shards.SPLITS:
    tokens = shards.Tokens(out, split)
    decoded.append(bpe.decode(tokens.read(0, tokens.num_tokens - 1)))
  assert ' \n '.join(decoded) == cleaning.clean(text).lower()
  assert decoded[1] == cleaning.clean('\n'.join(text.split('\n')[7:])).lower()


def test_a_single_document_cannot_be_split(tmp_path):
  (tmp_path / 'b').mkdir()
  (tmp_path / 'b' / 'a.txt').write_text('only one')
  (tmp_path / 'b' / 'b.txt').write_text('only  one')
  line = refused(f'--input={tmp_path}/b', f'--output={tmp_path}/out')
  assert 'a single document (and copies of it)' in line
