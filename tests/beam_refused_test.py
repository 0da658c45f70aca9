"""Tests what `prepare --engine=beam` refuses: one line, and nothing is left."""

import os

import pytest

pytest.importorskip(
  'apache_beam', reason="needs Apache Beam: pip install 'gpt1_jax[beam]'"
)

from gpt1_jax.corpus.beam import runner
from gpt1_jax.errors import UserError
from tests.support import commands, engines


@pytest.fixture
def mixed(tmp_path):
  return engines.write_mixed(tmp_path / 'in', engines.pages())


@pytest.mark.parametrize(
  ('name', 'data', 'words'),
  [
    ('bad.txt', b'good until here \xff', 'not UTF-8 at byte 16 (0xff)'),
    ('bad.jsonl', b'{"text": "a"}\n{"t": 1}', "no text in field 't"),
    ('bad.txt.gz', b'\x1f\x8bnot', 'damaged file'),
    ('bad.parquet', b'PAR1', 'not a readable Parquet file'),
  ],
)
def test_a_bad_document_is_one_line_and_leaves_nothing(
  tmp_path, name, data, words
):
  (tmp_path / 'good.txt').write_text(engines.pages()[0])
  (tmp_path / name).write_bytes(data)
  out = tmp_path / 'o' / 'out'
  line = engines.refused(
    f'--input={tmp_path}/*.*', f'--output={out}', engines.BEAM
  )
  assert line.startswith(f'error: {tmp_path}/{name}:')
  assert words in line
  assert 'while running' not in line
  assert not list(out.parent.iterdir())


def test_an_empty_split_or_too_many_merges(mixed, tmp_path):
  (tmp_path / 'blank.jsonl').write_text('\n\n')
  blank = [str(tmp_path / 'blank.jsonl')]
  out = tmp_path / 'out'
  for settings, words in (
    (
      engines.settings(mixed, validation_fraction=1 - 1e-9),
      'the train split is emp',
    ),
    (engines.settings(mixed, merges=50_000), 'this text allows only'),
    (engines.settings(blank), 'the input holds no document'),
  ):
    with pytest.raises(UserError, match=words):
      engines.fill(out, settings)
  assert not list(out.iterdir())


def test_a_full_disk_is_one_line_and_leaves_nothing(mixed, tmp_path):
  flags = [*(f'--input={spec}' for spec in mixed), f'--output={tmp_path}/out']
  done = commands.run_on_full_disk('prepare', *flags, engines.BEAM)
  assert 'nothing was written: free some' in commands.error_of(done, code=1)
  assert len(done.stderr.splitlines()) == 1
  assert os.listdir(tmp_path) == ['in']


@pytest.mark.parametrize(
  ('options', 'words'),
  [
    ('--runner=NoSuchRunner', 'Unexpected pipeline runner: NoSuchRunner'),
    ('--direct_num_workers=many', "invalid int value: 'many'"),
    ("--runner='", 'No closing quotation'),
    ('--temp_location=nosuch://b/t', 'nosuch://b/t: cannot be reached'),
  ],
)
def test_wrong_options(mixed, tmp_path, options, words):
  with pytest.raises(UserError) as refused:
    engines.fill(tmp_path / 'out', engines.settings(mixed), options)
  assert words in str(refused.value)
  assert '\n' not in str(refused.value)


def test_wrong_places(tmp_path):
  for spec, words in (
    ('nosuch://b/x', 'nosuch://b/x: cannot be reached'),
    (f'{tmp_path}/none', 'no such file or folder'),
  ):
    with pytest.raises(UserError, match=words):
      engines.fill(tmp_path / 'out', engines.settings([spec]))
  with pytest.raises(UserError, match='as a pattern'):
    engines.fill(
      tmp_path / 'a[b]', engines.settings(['builtin:python-reference'])
    )


def test_errors_are_found_in_the_text_of_remote_runners():
  text = (
    'Dataflow pipeline failed. State: FAILED, Error:\n'
    'Traceback (most recent call last):\n  File "apache_beam/common.py", x\n'
    'gpt1_jax.errors.UserError: gs://b/a.txt: empty; remove it [while running '
    "'clean-ptransform-41']\n\nNote: imports"
  )
  cause = runner.find_cause(text)
  assert isinstance(cause, UserError)
  assert str(cause) == 'gs://b/a.txt: empty; remove it'
  cause = runner.find_cause(
    'RuntimeError: OSError: [Errno 28] No space left on device [while running '
    "'write shard']"
  )
  assert (cause.errno, cause.strerror) == (28, 'No space left on device')
  text = "X\nFileNotFoundError: [Errno 2] No such file: '/a b'"
  cause = runner.find_cause(text)
  assert (cause.errno, cause.filename) == (2, '/a b')
  assert runner.find_cause('KeyError: 3') is None
