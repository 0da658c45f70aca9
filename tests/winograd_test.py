"""Winograd schemas in every published form; the sentences are our own."""

import json
import zipfile

import pytest

from gpt1_jax.tasks.zero_shot import winograd
from tests.support import tfds_builds
from tests.support.refusals import assert_refused
from tests.support.winograd_files import BLOCKS, SCHEMA, XML, write

LID = winograd.Schema(
  (
    'The lid did not fit the pot because The lid',
    'The lid did not fit the pot because The pot',
  ),
  ' was too wide.',
  0,
)


def test_dprd(tmp_path):
  path = write(tmp_path, 'DPRD/test.c.txt', BLOCKS)
  schemas, odd = winograd.read('dprd', path)
  assert odd == []
  baker, dog, aunt = schemas
  start = 'The baker thanked the miller because '
  assert baker == winograd.Schema(
    (f'{start}The baker', f'{start}the miller'), ' had brought flour.', 1
  )
  # The first of two; `cat` holds no `it`, and `His` is no `he`.
  assert dog.befores[0] == 'The dog chased the cat until The dog'
  assert dog.after == ' was tired, and it slept.'
  assert dog.label == 0
  assert aunt.befores[1] == 'His aunt told Ann that Ann'
  assert aunt.label == 1


def test_dprd_however_it_lies_there(tmp_path):
  expected = winograd.read('dprd', write(tmp_path, 'test.c.txt', BLOCKS))
  windows = '\ufeff' + BLOCKS.rstrip().replace('\n', '\r\n')
  path = write(tmp_path / 'b', 'emnlp12/test.c.txt', windows)
  assert winograd.read('dprd', path) == expected
  with zipfile.ZipFile(tmp_path / 'DPRD.zip', 'w') as archive:
    archive.writestr('anything/test.c.txt', BLOCKS)
  assert winograd.read('dprd', str(tmp_path / 'DPRD.zip')) == expected


def test_odd_rows_are_left_out_and_said(tmp_path):
  odd_ones = BLOCKS.replace('\nit\n', '\nthey\n').replace('\nANN\n', '\nBob\n')
  odd_ones += BLOCKS.replace('dog,', 'dog,hen,')
  path = write(tmp_path, 'test.c.txt', odd_ones)
  schemas, odd = winograd.read('dprd', path)
  assert len(schemas) == 3
  assert len(odd) == 3
  assert "candidates 'The dog,hen,the cat', not two" in odd[2]
  assert odd[0].endswith(":6: pronoun 'they' is not in the sentence")
  assert "test.c.txt:11: answer 'Bob' is not one of 'His aunt', 'Ann'" in odd[1]


@pytest.mark.parametrize(
  ('text', 'words'),
  [
    (BLOCKS.replace('ANN\n', ''), 'test.c.txt:11: 3 lines between blank lines'),
    (BLOCKS[:95].replace('\nhe\n', '\nwe\n'), 'no row can be used; '),
    ('', 'no row can be used'),
  ],
)
def test_dprd_that_is_not_of_this_form(tmp_path, text, words):
  with assert_refused(words):
    winograd.read('dprd', write(tmp_path, 'test.c.txt', text))


def test_xml_of_the_collection(tmp_path):
  rests = (('was too wide.', 'A'), ('.', 'B.'), ("'s rim was bent.", 'B'))
  schemas = [SCHEMA.format(rest=r, letter=x) for r, x in rests]
  path = write(tmp_path, 'WSC/WSCollection.xml', XML.format(''.join(schemas)))
  found, odd = winograd.read('wsc273', path)
  assert odd == []
  assert found[0] == LID
  assert [s.after for s in found] == [' was too wide.', '.', "'s rim was bent."]
  assert [s.label for s in found] == [0, 1, 1]


def test_the_first_273_of_the_collection(tmp_path):
  text = ''.join(
    SCHEMA.format(rest=f'was number {i}.', letter='A') for i in range(285)
  )
  path = write(tmp_path, 'WSCollection.xml', XML.format(text))
  found, _ = winograd.read('wsc273', path)
  assert len(found) == 273
  assert found[-1].after == ' was number 272.'


TEXT = 'The lid did not fit the pot because it was too wide.'
START = TEXT.index('it was')
OPTIONS = ['The lid', 'The pot']
FORMS = {
  'options': {
    'text': TEXT,
    'pronoun': 'it',
    'pronoun_loc': START,
    'options': OPTIONS,
    'label': 0,
  },
  'normalized': {
    'text': TEXT,
    'option1': OPTIONS[0],
    'option2': OPTIONS[1],
    'pronoun_start': START,
    'pronoun_end': START + 2,
    'pronoun_text': 'it',
    'label': 0,
  },
  'blank': {
    'sentence': TEXT.replace(' it ', ' _ '),
    'option1': OPTIONS[0],
    'option2': OPTIONS[1],
    'answer': '1',
  },
  'contexts': {
    'context_options': [f'{TEXT[:START]}{option}' for option in OPTIONS],
    'continuation': 'was too wide.',
    'gold': 0,
  },
  'sentence': {
    'sentence': TEXT,
    'pronoun': 'it',
    'candidates': OPTIONS,
    'label': 0,
  },
}


@pytest.mark.parametrize('form', FORMS)
def test_json_lines(tmp_path, form):
  lines = json.dumps(FORMS[form]) + '\n'
  path = write(tmp_path, 'wsc273.jsonl', lines * 2)
  assert winograd.read('wsc273', path) == ([LID, LID], [])


@pytest.mark.parametrize(
  ('row', 'words'),
  [
    ({**FORMS['options'], 'label': 2}, 'wsc273.jsonl:1: not a schema'),
    ({'text': 'x'}, 'wsc273.jsonl:1: not a schema'),
    ({**FORMS['options'], 'options': ['a', 'b', 'c']}, 'not a schema'),
    ({**FORMS['options'], 'pronoun_loc': 3}, "pronoun 'it' is not at 3"),
  ],
)
def test_json_that_is_not_of_this_form(tmp_path, row, words):
  path = write(tmp_path, 'wsc273.jsonl', json.dumps(row))
  with assert_refused(words):
    winograd.read('wsc273', path)


def test_missing_and_damaged_files_are_named(tmp_path):
  for name, file in (('dprd', 'test.c.txt'), ('wsc273', 'WSCollection.xml')):
    with assert_refused(f'no test file of task {name}: looked for {file}'):
      winograd.read(name, str(tmp_path))
  for text, words in (
    ('<collection><schema>', 'not XML'),
    (
      XML.format('<schema><text/></schema>'),
      'schema 1: not in the form of the collection',
    ),
    (XML.format(''), 'no row can be used'),
  ):
    path = write(tmp_path, 'WSCollection.xml', text)
    with assert_refused(words):
      winograd.read('wsc273', path)


@tfds_builds.ALLOW_WARNINGS
def test_dprd_from_tfds(tmp_path, monkeypatch):
  blocks = BLOCKS.replace('ANN', 'Ann').replace(' \n', '\n')
  for split in ('train', 'test'):
    write(tmp_path, f'MRPC/{split}', blocks)
  folder = tmp_path / 'tfds'
  name = 'definite_pronoun_resolution'
  tfds_builds.build(name, tmp_path, folder, monkeypatch)
  path = f'tfds:{folder}'
  found, odd = winograd.read('dprd', path)
  expected, _ = winograd.read('dprd', write(tmp_path, 'test.c.txt', blocks))
  assert odd == []
  assert sorted(found, key=str) == sorted(expected, key=str)
