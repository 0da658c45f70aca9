"""`prepare`: what its output holds, and what later runs make of it."""

import json
import pathlib
import random
import shutil

import numpy as np
import pytest

from gpt1_jax.corpus import (
  cleaning,
  local_engine,
  preparation,
  shards,
  tokenization,
)
from tests.support import books as library, preparations, vocabulary
from tests.support.preparations import FLAGS, prepare, refused


def _contents(output: pathlib.Path) -> dict[str, tuple[int, bytes]]:
  return {
    file.name: (file.stat().st_mtime_ns, file.read_bytes())
    for file in output.iterdir()
  }


@pytest.fixture(scope='module')
def output(books, tmp_path_factory) -> pathlib.Path:
  path = tmp_path_factory.mktemp('prepared') / 'out'
  flags = (*FLAGS, '--shard_tokens=1000')
  prepare(f'--input={books}', f'--output={path}', *flags)
  return path


def _check_shards(output: pathlib.Path, files: list[pathlib.Path]) -> None:
  """Asserts that the shards are the tokens of the files, in order."""
  bpe = tokenization.load(output)
  meta = shards.read_meta(output)
  assert meta['tokenizer'] == bpe.description()
  rows = list(shards.read_documents(output))
  assert [row.source for row in rows] == [str(file) for file in files]
  expected: dict[str, list[int]] = {split: [] for split in shards.SPLITS}
  ends: dict[str, list[int]] = {split: [] for split in shards.SPLITS}
  num_bytes = dict.fromkeys(shards.SPLITS, 0)
  for row, file in zip(rows, files, strict=True):
    ids = bpe.encode(cleaning.paragraphs(file.read_text()))
    expected[row.split] += [*ids, bpe.document_id]
    ends[row.split].append(len(expected[row.split]))
    assert row.tokens == len(ids) + 1
    cleaned = cleaning.clean(cleaning.paragraphs(file.read_text()))
    assert row.words == len(cleaned.split())
    num_bytes[row.split] += len(cleaned.encode())
  for split, stream in expected.items():
    tokens = shards.Tokens(output, split)
    np.testing.assert_array_equal(tokens.read(0, tokens.num_tokens), stream)
    np.testing.assert_array_equal(tokens.document_ends, ends[split])
    found = [row for row in rows if row.split == split]
    split_meta = meta['splits'][split]
    assert split_meta['documents'] == len(found) > 0
    assert split_meta['bytes'] == num_bytes[split]
    assert split_meta['words'] == tokens.num_words
    assert split_meta['words'] == sum(row.words for row in found)
    assert split_meta['tokens'] == tokens.num_tokens == len(stream)


def test_shards_hold_every_document_in_order(books, output):
  _check_shards(output, sorted(books.glob('*.txt')))
  assert len(shards.read_meta(output)['splits']['train']['shards']) > 2


def test_meta_records_the_settings_and_every_file(books, output):
  meta = shards.read_meta(output)
  assert meta['tokenizer']['merges'] == 60
  assert meta['cleaning'] == cleaning.CLEANING_VERSION
  assert meta['validation_fraction'] == 0.25
  assert meta['settings'] == library.settings([books]).as_dict()
  assert meta['input']['files'] == 24
  on_disk = {file.name for file in output.iterdir()} - {'meta.json'}
  assert set(meta['files']) == on_disk


@pytest.mark.parametrize('num_workers', [1, 3])
def test_output_does_not_depend_on_workers(
  books, output, tmp_path, num_workers
):
  engine = local_engine.LocalEngine(num_workers)
  preparation.fill(tmp_path, library.settings([books]), engine)
  for file in output.iterdir():
    assert (tmp_path / file.name).read_bytes() == file.read_bytes()


def test_the_original_vocabulary(tmp_path):
  pytest.importorskip('spacy', reason='needs the openai extra')
  folder = vocabulary.write_openai(tmp_path / 'vocabulary')
  books = library.write_books(tmp_path / 'books', range(8))
  (books / 'x.txt').write_text("I cannot say, Mr. Smith.\n\nDon't!")
  out = tmp_path / 'out'
  flags = ('--validation_fraction=0.4', '--workers=2')
  given = f'--tokenizer=openai:{folder}'
  prepare(f'--input={books}', f'--output={out}', given, *flags)
  _check_shards(out, sorted(books.glob('*.txt')))
  assert shards.verify(out) == 5
  assert tokenization.load(out).document_id == tokenization.load(out).newline_id
  line = refused(
    f'--input={books}', f'--output={out}2', f'--tokenizer=openai:{books}'
  )
  assert 'no original vocabulary here' in line


def test_adding_files_moves_no_document(books, output, tmp_path):
  more = shutil.copytree(books, tmp_path / 'more')
  library.write_books(more, range(24, 40))
  shutil.copy(more / '003.txt', more / '100.txt')  # a copy under a later name
  (more / '101.txt').write_text((more / '004.txt').read_text() + ' \r\n\r\n')
  out = prepare(f'--input={more}', f'--output={tmp_path}/out', *FLAGS)
  assert 'duplicates, left out: 2, see documents.jsonl\n' in out
  before, after = (
    preparations.splits(output),
    preparations.splits(tmp_path / 'out'),
  )
  assert before.items() <= after.items()
  assert after['100.txt'] == after['101.txt'] == 'duplicate'
  assert list(after.values()).count('duplicate') == 2
  for row in shards.read_documents(tmp_path / 'out'):
    if row.split == 'duplicate':
      assert row.tokens == row.words == 0


def test_a_sample_trains_the_tokenizer_and_all_text_is_encoded(tmp_path):
  draw, words = random.Random(0), library.made_up_words(0, 400).split()
  lines = [' '.join(draw.choices(words, k=2000)) for _ in range(40 * 5)]
  rows = [{'text': '\n'.join(lines[i::40])} for i in range(40)]
  path = tmp_path / 'r.jsonl'
  path.write_text('\n'.join(map(json.dumps, rows)))
  assert path.stat().st_size > 1_800_000
  outputs = []
  for name, megabytes in (('all', 1000), ('some', 1), ('again', 1)):
    (tmp_path / name).mkdir()
    settings = library.settings([path], tokenizer_sample_mb=megabytes)
    preparation.fill(tmp_path / name, settings, local_engine.LocalEngine(1))
    outputs.append(tmp_path / name)
  prints = [tokenization.load(out).fingerprint for out in outputs]
  assert prints[0] != prints[1] == prints[2]
  counts = [
    shards.read_meta(out)['splits']['train']['words'] for out in outputs
  ]
  assert counts[0] == counts[1] == counts[2]


def test_mixed_inputs_and_a_given_tokenizer(books, output, tmp_path):
  rows = tmp_path / 'r.jsonl'
  texts = [{'t': library.made_up_words(i, 50)} for i in range(20)]
  rows.write_text('\n'.join(map(json.dumps, texts)))
  out = tmp_path / 'out'
  flags = (f'--input={rows}', f'--input={books}/00*.txt', '--text_field=t')
  flags += (f'--tokenizer={output}', '--validation_fraction=0.25')
  prepare(*flags, f'--output={out}')
  meta = shards.read_meta(out)
  assert meta['tokenizer'] == shards.read_meta(output)['tokenizer']
  sources = [row.source for row in shards.read_documents(out)]
  assert sources[:2] == [f'{rows}:1', f'{rows}:2']
  assert sources[20:] == [f'{books}/{i:03d}.txt' for i in range(10)]
  assert 'give one' in refused(*flags, '--merges=9', f'--output={out}2')


def test_gutenberg_books_are_stripped(tmp_path, capsys):
  folder = library.write_books(tmp_path / 'b', range(3))
  for file in folder.iterdir():
    file.write_text(
      'The Project Gutenberg eBook of X\n\n*** START OF THE PROJECT GUTENBERG '
      f'EBOOK X ***\n\nProduced by\nsomeone\n\n\n{file.read_text()}\n\n\n'
      "End of Project Gutenberg's X, by Y\n\n*** END OF THIS PROJECT "
      'GUTENBERG EBOOK X ***\nlicence'
    )
  warning = f'files (3, such as {min(folder.iterdir())}); --strip_gutenberg'
  for strip in (False, True):
    settings = library.settings([folder], strip_gutenberg=strip)
    engine = local_engine.LocalEngine(1)
    preparation.prepare(tmp_path / f'out{strip:d}', settings, engine)
    assert (warning in capsys.readouterr().out) != strip
  library.write_books(folder, range(3))
  settings = library.settings([folder])
  preparation.prepare(tmp_path / 'plain', settings, engine)
  assert 'Gutenberg' not in capsys.readouterr().out
  assert [row.sha256 for row in shards.read_documents(tmp_path / 'out1')] == [
    row.sha256 for row in shards.read_documents(tmp_path / 'plain')
  ]


def test_a_complete_output_is_left_alone(books, tmp_path):
  folder = shutil.copytree(books, tmp_path / 'b')
  out = tmp_path / 'out'
  flags = (f'--input={folder}', f'--output={out}')
  prepare(*flags, *FLAGS)
  before = _contents(out)
  assert 'already complete' in prepare(*flags, *FLAGS, '--workers=1')
  assert 'other settings (merges)' in refused(*flags, '--merges=61', FLAGS[1])
  slashed = (f'--input={folder}/', f'--output={out}')
  assert 'already complete' in prepare(*slashed, *FLAGS)
  file = folder / '003.txt'
  file.write_text(file.read_text().replace('e', 'o'))  # of the same length
  assert 'its input has changed' in refused(*flags, *FLAGS)
  library.write_books(folder, [3])
  assert 'already complete' in prepare(*flags, *FLAGS)
  (folder / '999.txt').write_text('a new one')
  assert 'its input has changed' in refused(*flags, *FLAGS)
  shutil.rmtree(folder)
  assert 'already complete' in prepare(*flags, *FLAGS)
  assert 'files are unchanged' in prepare(f'--output={out}', '--verify')
  assert before == _contents(out)


def test_verify_names_a_damaged_file(output, tmp_path):
  bad = shutil.copytree(output, tmp_path / 'bad')
  file = bad / 'tokenizer.model'
  file.write_bytes(file.read_bytes()[:-1])
  line = refused(f'--output={bad}', '--verify')
  assert 'tokenizer.model' in line
  assert 'expected' in line
  line = refused(f'--output={tmp_path}/none', '--verify')
  assert 'no prepared shards' in line


def test_novels(shared_data, tmp_path):
  """Eight novels, half of them hard-wrapped."""
  files = sorted((shared_data / 'books').glob('*.txt'))[::7]
  flags = [f'--input={file}' for file in files]
  out = tmp_path / 'out'
  flags += ['--merges=1000', '--validation_fraction=0.3']
  prepare(*flags, f'--output={out}')
  bpe = tokenization.load(out)
  assert bpe.merges == 1000
  tokens = shards.Tokens(out, 'validation')
  first = tokens.read(0, int(tokens.document_ends[0]) - 1)
  row = next(r for r in shards.read_documents(out) if r.split == 'validation')
  raw = pathlib.Path(row.source).read_text('utf-8-sig')
  assert bpe.decode(first) == cleaning.clean(cleaning.paragraphs(raw)).lower()
  assert bpe.unknown_id not in first
