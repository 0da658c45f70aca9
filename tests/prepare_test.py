"""`prepare`: its output, its refusals, and what a killed run leaves."""

import contextlib
import functools
import hashlib
import json
import os
import pathlib
import random
import re
import shutil
import signal
import subprocess
import sys
import time

import numpy as np
import pytest

from gpt1_jax.corpus import (
  beam,
  cleaning,
  local_engine,
  metadata,
  preparation,
  shards,
  splits,
  tokenization,
  workers,
)
from gpt1_jax.errors import UserError
from tests.support import books as library, commands, vocabulary

_FLAGS = ('--merges=60', '--validation_fraction=0.25', '--workers=1')


_prepare = functools.partial(commands.succeed, 'prepare')
_refused = functools.partial(commands.fail, 'prepare')


def _splits(output: pathlib.Path) -> dict[str, str]:
  """File name of each document -> its split."""
  return {
    os.path.basename(row.source): row.split
    for row in shards.read_documents(output)
  }


def _held_out(output: pathlib.Path) -> set[str]:
  return {name for name, x in _splits(output).items() if x == 'validation'}


def _contents(output: pathlib.Path) -> dict[str, tuple[int, bytes]]:
  return {
    file.name: (file.stat().st_mtime_ns, file.read_bytes())
    for file in output.iterdir()
  }


@pytest.fixture(scope='module')
def books(tmp_path_factory) -> pathlib.Path:
  return library.write_books(tmp_path_factory.mktemp('books') / 'b', range(24))


@pytest.fixture(scope='module')
def output(books, tmp_path_factory) -> pathlib.Path:
  path = tmp_path_factory.mktemp('prepared') / 'out'
  flags = (*_FLAGS, '--shard_tokens=1000')
  _prepare(f'--input={books}', f'--output={path}', *flags)
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
  _prepare(f'--input={books}', f'--output={out}', given, *flags)
  _check_shards(out, sorted(books.glob('*.txt')))
  assert shards.verify(out) == 5
  assert tokenization.load(out).document_id == tokenization.load(out).newline_id
  line = _refused(
    f'--input={books}', f'--output={out}2', f'--tokenizer=openai:{books}'
  )
  assert 'no original vocabulary here' in line


def test_adding_files_moves_no_document(books, output, tmp_path):
  more = shutil.copytree(books, tmp_path / 'more')
  library.write_books(more, range(24, 40))
  shutil.copy(more / '003.txt', more / '100.txt')  # a copy under a later name
  (more / '101.txt').write_text((more / '004.txt').read_text() + ' \r\n\r\n')
  out = commands.succeed(
    'prepare', f'--input={more}', f'--output={tmp_path}/out', *_FLAGS
  )
  assert 'duplicates, left out: 2, see documents.jsonl\n' in out
  before, after = _splits(output), _splits(tmp_path / 'out')
  assert before.items() <= after.items()
  assert after['100.txt'] == after['101.txt'] == 'duplicate'
  assert list(after.values()).count('duplicate') == 2
  for row in shards.read_documents(tmp_path / 'out'):
    if row.split == 'duplicate':
      assert row.tokens == row.words == 0


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
  _prepare(f'--input={folder}', f'--output={tmp_path}/out', *_FLAGS)
  bpe = tokenization.load(tmp_path / 'out')
  for name, split in _splits(tmp_path / 'out').items():
    unknown = bpe.unknown_id in bpe.encode(marks[name])
    assert unknown == (split == 'validation')


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
  _prepare(*flags, f'--output={out}')
  meta = shards.read_meta(out)
  assert meta['tokenizer'] == shards.read_meta(output)['tokenizer']
  sources = [row.source for row in shards.read_documents(out)]
  assert sources[:2] == [f'{rows}:1', f'{rows}:2']
  assert sources[20:] == [f'{books}/{i:03d}.txt' for i in range(10)]
  assert 'give one' in _refused(*flags, '--merges=9', f'--output={out}2')


def test_a_complete_output_is_left_alone(books, tmp_path):
  folder = shutil.copytree(books, tmp_path / 'b')
  out = tmp_path / 'out'
  flags = (f'--input={folder}', f'--output={out}')
  _prepare(*flags, *_FLAGS)
  before = _contents(out)
  assert 'already complete' in _prepare(*flags, *_FLAGS, '--workers=1')
  assert 'other settings (merges)' in _refused(*flags, '--merges=61', _FLAGS[1])
  slashed = (f'--input={folder}/', f'--output={out}')
  assert 'already complete' in _prepare(*slashed, *_FLAGS)
  file = folder / '003.txt'
  file.write_text(file.read_text().replace('e', 'o'))  # of the same length
  assert 'its input has changed' in _refused(*flags, *_FLAGS)
  library.write_books(folder, [3])
  assert 'already complete' in _prepare(*flags, *_FLAGS)
  (folder / '999.txt').write_text('a new one')
  assert 'its input has changed' in _refused(*flags, *_FLAGS)
  shutil.rmtree(folder)
  assert 'already complete' in _prepare(*flags, *_FLAGS)
  assert 'files are unchanged' in _prepare(f'--output={out}', '--verify')
  assert before == _contents(out)


def test_verify_names_a_damaged_file(output, tmp_path):
  bad = shutil.copytree(output, tmp_path / 'bad')
  file = bad / 'tokenizer.model'
  file.write_bytes(file.read_bytes()[:-1])
  line = _refused(f'--output={bad}', '--verify')
  assert 'tokenizer.model' in line
  assert 'expected' in line
  line = _refused(f'--output={tmp_path}/none', '--verify')
  assert 'no prepared shards' in line


def test_a_foreign_folder_is_not_touched(books, tmp_path):
  (tmp_path / 'thesis.tex').write_text('ten years of work')
  line = _refused(f'--input={books}', f'--output={tmp_path}', *_FLAGS)
  assert 'holds no prepared data' in line
  assert [f.name for f in tmp_path.iterdir()] == ['thesis.tex']
  line = _refused(f'--input={books}', f'--output={tmp_path}/thesis.tex/out')
  assert 'thesis.tex' in line


def test_an_output_inside_its_input_is_refused(books, tmp_path):
  folder = shutil.copytree(books, tmp_path / 'b')
  line = _refused(f'--input={folder}', f'--output={folder}/out', *_FLAGS)
  assert f'lies in --input={folder}' in line
  _prepare(f'--input={folder}/**/*', f'--output={folder}/out', *_FLAGS)
  assert shards.read_meta(folder / 'out')['input']['files'] == 24


def test_a_bad_document_leaves_no_output(books, tmp_path):
  folder = shutil.copytree(books, tmp_path / 'b')
  (folder / '010.txt').write_bytes(b'good until here \xff')
  line = _refused(f'--input={folder}', f'--output={tmp_path}/out', *_FLAGS)
  assert f'{folder}/010.txt: not UTF-8 at byte 16 (0xff)' in line
  assert not list(tmp_path.glob('out*'))


def test_wrong_flags(tmp_path):
  wrong = [
    ((), '--input is missing'),
    (('--input=x', '--validation_fraction=1'), 'between 0 and 1'),
    (('--input=x', '--validation_fraction=0'), '0 itself requires --hold_out'),
    (('--input=x', '--merges=0'), '--merges is 0'),
    (('--input=x', '--merges=65529'), '16 bits hold at most 65528'),
    (('--input=x', '--workers=0'), '--workers is 0'),
    (('--input=x',), 'no such file'),
    (('--input=gs://b/x',), 'gs:// requires --engine=beam'),
    (('--input=x', '--beam_options=y'), 'requires --engine=beam'),
    (('--input=builtin:python-reference', '--tokenizer=x'), 'no tokenizer'),
    (
      ('--input=builtin:python-reference', '--merges=50000'),
      'this text allows only',
    ),
    (('what',), "unexpected argument 'what'"),
  ]
  for flags, words in wrong:
    assert words in _refused(*flags, f'--output={tmp_path}/out')
  assert not list(tmp_path.iterdir())


def test_all_wrong_flags_are_reported_at_once(tmp_path):
  flags = ('--merges=0', '--shard_tokens=-1', '--workers=0', '--beam_options=x')
  done = commands.run('prepare', *flags, f'--output={tmp_path}/out')
  assert done.returncode == 2
  lines = done.stderr.splitlines()
  assert lines[0] == 'error: 5 invalid options:'
  names = [line.split()[0] for line in lines[1:]]
  assert names == ['--input', '--merges', '--shard_tokens', '--workers',
                   '--beam_options']  # fmt: skip


def test_documents_are_held_out_by_name(books, tmp_path):
  out = tmp_path / 'out'
  flags = (f'--input={books}', '--merges=60', f'--output={out}')
  named = ('--hold_out=*/003.txt', '--hold_out=*/01?.txt')
  _prepare(*flags, *named, '--validation_fraction=0')
  by_name = _held_out(out)
  assert by_name == {'003.txt', *(f'01{i}.txt' for i in range(10))}
  shutil.rmtree(out)
  _prepare(*flags, *_FLAGS)
  by_hash = _held_out(out)
  assert by_hash - by_name
  line = _refused(*flags, *named, *_FLAGS)
  assert 'prepared with other settings (hold_out)' in line
  shutil.rmtree(out)
  _prepare(*flags, *named, *_FLAGS)
  assert _held_out(out) == by_name | by_hash
  shutil.rmtree(out)
  line = _refused(*flags, *named, '--hold_out=003.txt')
  assert '--hold_out=003.txt: matches the source of no document' in line
  line = _refused(*flags, '--hold_out=*')
  assert '--hold_out leaves no document for it' in line


def _fill(directory: pathlib.Path, settings) -> dict[str, str]:
  """Prepares in this process; returns the split of each document."""
  directory.mkdir()
  preparation.fill(directory, settings, local_engine.LocalEngine(1))
  return _splits(directory)


def test_an_empty_train_split_names_a_fraction_that_fills_it(books, tmp_path):
  settings = library.settings([books], validation_fraction=0.999999)
  with pytest.raises(UserError, match='the train split is empty') as caught:
    _fill(tmp_path / 'none', settings)
  line = str(caught.value)
  assert 'all 24 documents' in line
  advice = float(line.split('--validation_fraction=')[1].split()[0])
  settings = library.settings([books], validation_fraction=advice)
  assert 'train' in _fill(tmp_path / 'out', settings).values()


def test_a_book_is_held_out_if_the_fraction_holds_out_none(tmp_path, capsys):
  """The one with the smallest hash; it does not train the tokenizer."""
  folder = library.write_books(tmp_path / 'books', range(3))
  (folder / '009.txt').write_text((folder / '000.txt').read_text() + ' ')
  settings = library.settings([folder], validation_fraction=1e-9)
  splits = _fill(tmp_path / 'out', settings)
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
  _fill(tmp_path / 'named', named)
  for name in ('tokenizer.model', 'documents.jsonl'):
    data = (tmp_path / 'named' / name).read_bytes()
    assert data == (tmp_path / 'out' / name).read_bytes()


def test_the_last_part_of_a_single_file_is_held_out(tmp_path):
  book = library.write_books(tmp_path / 'b', [1]) / '001.txt'
  text = book.read_text().removesuffix('.')
  book.write_text(text)
  out = tmp_path / 'out'
  said = _prepare(f'--input={book}', f'--output={out}', '--merges=20',
                  '--validation_fraction=0.25')  # fmt: skip
  assert 'validation text: the last 25% of the only file' in said
  assert _splits(out) == {'001.txt#train': 'train',
                          '001.txt#validation': 'validation'}  # fmt: skip
  bpe = tokenization.load(out)
  decoded = []
  for split in shards.SPLITS:
    tokens = shards.Tokens(out, split)
    decoded.append(bpe.decode(tokens.read(0, tokens.num_tokens - 1)))
  assert ' \n '.join(decoded) == cleaning.clean(text).lower()
  assert decoded[1] == cleaning.clean('\n'.join(text.split('\n')[7:])).lower()


def _write_bad_rows(folder: pathlib.Path) -> pathlib.Path:
  """Writes 20 good rows and, in between, three bad ones; a bad file, too."""
  library.write_books(folder, range(2))
  rows = [json.dumps({'text': library.made_up_words(i, 30)}) for i in range(20)]
  rows[4:4] = ['{"text": ""}', '{"text": null}']
  (folder / 'r.jsonl').write_text('\n'.join([*rows, '{"text": "cut']))
  (folder / 'x.txt').write_bytes(b'\xff')
  (folder / 'x.md').write_text('no document')
  return folder


@pytest.mark.parametrize(
  ('limit', 'words'),
  [
    ('0', 'x.txt: not UTF-8|r.jsonl:5: no text is left'),
    (
      '3',
      r'--skip_bad_rows=3: 4 bad documents so far; the first: .*:5: no tex',
    ),
    ('0.15', r'--skip_bad_rows=0.15: 4 bad documents so far'),
    ('1.5', '--skip_bad_rows is 1.5: give a number, or a share below 1'),
    ('-1', '--skip_bad_rows is -1.0'),
    ('4', None),
    ('0.16', None),
  ],
)
def test_bad_rows_are_left_out_up_to_a_limit(tmp_path, limit, words):
  folder = _write_bad_rows(tmp_path / 'in')
  out = tmp_path / 'out'
  flags = (f'--input={folder}', f'--output={out}', '--merges=20')
  flags += ('--validation_fraction=0.3', f'--skip_bad_rows={limit}')
  if words:
    assert re.search(words, _refused(*flags))
    assert not list(tmp_path.glob('out*'))
    return
  said = _prepare(*flags)
  assert 'rejected: 4 documents, see rejected.jsonl' in said
  assert f'skipped, unknown kind: {folder}/x.md\n' in said
  lines = (out / 'rejected.jsonl').read_text().splitlines()
  rows = [json.loads(line) for line in lines]
  assert [os.path.basename(row['source']) for row in rows] == [
    'r.jsonl:5', 'r.jsonl:6', 'r.jsonl:23', 'x.txt'
  ]  # fmt: skip
  assert "field 'text' holds null" in rows[1]['problem']
  assert len(_splits(out)) == 22
  assert shards.verify(out) == 5


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


def test_a_single_document_cannot_be_split(tmp_path):
  (tmp_path / 'b').mkdir()
  (tmp_path / 'b' / 'a.txt').write_text('only one')
  (tmp_path / 'b' / 'b.txt').write_text('only  one')
  line = _refused(f'--input={tmp_path}/b', f'--output={tmp_path}/out')
  assert 'a single document (and copies of it)' in line


def test_a_full_disk_is_one_line_and_leaves_nothing(books, tmp_path):
  done = commands.run_on_full_disk(
    'prepare', f'--input={books}', f'--output={tmp_path}/out', *_FLAGS
  )
  assert 'nothing was written: free some' in commands.error_of(done, code=1)
  assert not list(tmp_path.iterdir())


def test_no_space_left_while_shards_are_written(books, tmp_path, monkeypatch):
  def full(self, tokens):
    raise OSError(28, 'No space left on device')

  monkeypatch.setattr(shards.ShardWriter, 'write', full)
  settings = library.settings([books])
  with pytest.raises(UserError, match='left on device; nothing was written'):
    preparation.prepare(tmp_path / 'out', settings, local_engine.LocalEngine(1))
  assert not list(tmp_path.iterdir())


def test_a_missing_beam_is_named(monkeypatch):
  monkeypatch.setitem(sys.modules, 'apache_beam', None)
  with pytest.raises(UserError, match=r"pip install 'gpt1_jax\[beam\]'"):
    beam.engine('')


def _children(pid: int) -> list[int]:
  found = subprocess.run(
    ['ps', '-o', 'pid=', '--ppid', str(pid)],
    check=False,
    capture_output=True,
    text=True,
  )
  return [int(word) for word in found.stdout.split()]


def _is_alive(pid: int) -> bool:
  with contextlib.suppress(OSError):
    state = pathlib.Path(f'/proc/{pid}/stat').read_text().rsplit(')')[-1]
    return state.split()[0] != 'Z'
  return False


def _write_rows(path: pathlib.Path, count: int) -> None:
  words = library.made_up_words(0, 5000)
  rows = (json.dumps({'text': f'{i} {words}'}) for i in range(count))
  path.write_text('\n'.join(rows))


def _start_cleaning(
  tmp_path: pathlib.Path, ended
) -> tuple[subprocess.Popen[str], tuple[str, ...]]:
  """Starts a run of r.jsonl, waits until it cleans; returns its flags, too."""
  path = tmp_path / 'r.jsonl'
  _write_rows(path, 1200)
  flags = (
    f'--input={path}',
    f'--output={tmp_path}/out',
    *_FLAGS,
    '--workers=2',
  )
  process = ended(commands.start('prepare', *flags))
  pattern = 'out.incomplete/out/spool/*.clean'
  commands.await_until(process, lambda: list(tmp_path.glob(pattern)))
  return process, flags


@pytest.mark.parametrize('number', [signal.SIGTERM, signal.SIGINT])
def test_an_interrupted_run_leaves_nothing(tmp_path, number, ended):
  process, _ = _start_cleaning(tmp_path, ended)
  process.send_signal(number)
  _, err = process.communicate()
  assert process.returncode == 75
  assert 'Traceback' not in err
  assert os.listdir(tmp_path) == ['r.jsonl']


def test_a_killed_run_leaves_a_folder_that_the_next_replaces(tmp_path, ended):
  out, left = tmp_path / 'out', tmp_path / 'out.incomplete'
  process, flags = _start_cleaning(tmp_path, ended)
  deadline = time.monotonic() + 60
  assert 'another process is writing it' in _refused(*flags)
  children = _children(process.pid)
  assert len(children) >= 2
  process.send_signal(signal.SIGKILL)
  process.communicate()
  assert not out.exists()
  assert left.exists()
  while any(map(_is_alive, children)):  # workers end with their parent
    assert time.monotonic() < deadline
    time.sleep(0.05)
  (left / 'out' / 'stale').write_text('of the killed run')
  _write_rows(tmp_path / 'r.jsonl', 20)
  _prepare(*flags)
  assert not left.exists()
  assert not (out / 'stale').exists()
  shards.verify(out)


def _die(job: int) -> int:
  if job == 3:
    os.kill(os.getpid(), signal.SIGKILL)
  return job


def test_a_killed_worker_is_reported():
  with (
    workers.Workers(1) as pool,
    pytest.raises(UserError, match='a worker process was killed'),
  ):
    list(pool.map(_die, range(9)))


def test_workers_take_items_only_as_fast_as_results_are_taken():
  taken = []

  def items():
    for i in range(50):
      taken.append(i)
      yield i

  with workers.Workers(2) as pool:
    for i, result in enumerate(pool.map(abs, items())):
      assert result == i
      assert len(taken) <= i + 3 * 2
  assert len(taken) == 50


_PEAK = """
import resource, sys
from gpt1_jax import cli, prepare
if __name__ == '__main__':
  try:
    cli.run(prepare.main)
  except SystemExit:
    for who in (resource.RUSAGE_SELF, resource.RUSAGE_CHILDREN):
      print('peak', resource.getrusage(who).ru_maxrss)
"""


@pytest.mark.slow
def test_memory_does_not_grow_with_the_corpus(tmp_path):
  """Eight times the text has the same peak, as the command promises."""
  script = tmp_path / 'peak.py'
  script.write_text(_PEAK)
  pages = [library.made_up_words(seed, 3000) for seed in range(16)]
  peaks = []
  for megabytes in (5, 40):
    path = tmp_path / f'{megabytes}.jsonl'
    with path.open('w') as file:
      for i in range(megabytes * 1_000_000 // (4 * len(pages[0]))):
        draw = random.Random(i)
        text = '\n'.join([str(i), *draw.sample(pages, 4)])
        file.write(json.dumps({'text': text}) + '\n')
    done = subprocess.run(
      [
        *(sys.executable, script, f'--input={path}', '--workers=2'),
        *(f'--output={tmp_path}/out{megabytes}', '--merges=50'),
      ],
      env={**os.environ, 'PYTHONPATH': str(commands.ROOT)},
      check=True,
      capture_output=True,
      text=True,
    )
    lines = [x for x in done.stdout.splitlines() if x.startswith('peak')]
    peaks.append([int(line.split()[1]) / 1000 for line in lines])
  (parent, worker), (parent_8, worker_8) = peaks
  assert parent_8 < parent + 12, peaks
  assert worker_8 < worker + 12, peaks


def test_novels(shared_data, tmp_path):
  """Eight novels, half of them hard-wrapped."""
  files = sorted((shared_data / 'books').glob('*.txt'))[::7]
  flags = [f'--input={file}' for file in files]
  out = tmp_path / 'out'
  flags += ['--merges=1000', '--validation_fraction=0.3']
  _prepare(*flags, f'--output={out}')
  bpe = tokenization.load(out)
  assert bpe.merges == 1000
  tokens = shards.Tokens(out, 'validation')
  first = tokens.read(0, int(tokens.document_ends[0]) - 1)
  row = next(r for r in shards.read_documents(out) if r.split == 'validation')
  raw = pathlib.Path(row.source).read_text('utf-8-sig')
  assert bpe.decode(first) == cleaning.clean(cleaning.paragraphs(raw)).lower()
  assert bpe.unknown_id not in first
