"""Tests that `prepare` refuses in one line and leaves nothing behind."""

import json
import os
import pathlib
import re
import shutil
import sys

import pytest

from gpt1_jax.corpus import beam, local_engine, preparation, shards
from gpt1_jax.errors import UserError
from tests.support import books as library, commands, preparations
from tests.support.preparations import FLAGS, prepare, refused


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
    assert words in refused(*flags, f'--output={tmp_path}/out')
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


def test_a_foreign_folder_is_not_touched(books, tmp_path):
  (tmp_path / 'thesis.tex').write_text('ten years of work')
  line = refused(f'--input={books}', f'--output={tmp_path}', *FLAGS)
  assert 'holds no prepared data' in line
  assert [f.name for f in tmp_path.iterdir()] == ['thesis.tex']
  line = refused(f'--input={books}', f'--output={tmp_path}/thesis.tex/out')
  assert 'thesis.tex' in line


def test_an_output_inside_its_input_is_refused(books, tmp_path):
  folder = shutil.copytree(books, tmp_path / 'b')
  line = refused(f'--input={folder}', f'--output={folder}/out', *FLAGS)
  assert f'lies in --input={folder}' in line
  prepare(f'--input={folder}/**/*', f'--output={folder}/out', *FLAGS)
  assert shards.read_meta(folder / 'out')['input']['files'] == 24


def test_a_bad_document_leaves_no_output(books, tmp_path):
  folder = shutil.copytree(books, tmp_path / 'b')
  (folder / '010.txt').write_bytes(b'good until here \xff')
  line = refused(f'--input={folder}', f'--output={tmp_path}/out', *FLAGS)
  assert f'{folder}/010.txt: not UTF-8 at byte 16 (0xff)' in line
  assert not list(tmp_path.glob('out*'))


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
    assert re.search(words, refused(*flags))
    assert not list(tmp_path.glob('out*'))
    return
  said = prepare(*flags)
  assert 'rejected: 4 documents, see rejected.jsonl' in said
  assert f'skipped, unknown kind: {folder}/x.md\n' in said
  lines = (out / 'rejected.jsonl').read_text().splitlines()
  rows = [json.loads(line) for line in lines]
  assert [os.path.basename(row['source']) for row in rows] == [
    'r.jsonl:5', 'r.jsonl:6', 'r.jsonl:23', 'x.txt'
  ]  # fmt: skip
  assert "field 'text' holds null" in rows[1]['problem']
  assert len(preparations.splits(out)) == 22
  assert shards.verify(out) == 5


def test_a_full_disk_is_one_line_and_leaves_nothing(books, tmp_path):
  done = commands.run_on_full_disk(
    'prepare', f'--input={books}', f'--output={tmp_path}/out', *FLAGS
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
