"""Cleaning: the rules of standardisation, and hard-wrapped lines."""

import random
import re

import ftfy
import pytest

from gpt1_jax.corpus import cleaning, documents, pipeline
from tests.support import books as library


def _standardize_by_the_rules(source: str) -> str:
  """Applies docs/reference.md §3, one regular expression for each rule."""
  source = re.sub('[—–―]', '-', source).replace('…', '...').replace('´', "'")
  source = re.sub(r'([-~!";?+,)(\\/*\[\]}{|_])\1*', r' \g<0> ', source)
  source = re.sub(r'\s*\n\s*', ' \n ', source)
  return re.sub(r'[^\S\n]+', ' ', source).strip()


@pytest.mark.parametrize(
  ('raw', 'expected'),
  [
    ('a—b–c―d', 'a - b - c - d'),
    ('wait…what', 'wait...what'),
    ('don´t', "don't"),
    ('Yes,no;maybe?', 'Yes , no ; maybe ?'),
    ('what?!', 'what ? !'),
    ('what??!!', 'what ?? !!'),
    ('--- ---', '--- ---'),
    ('a----b', 'a ---- b'),
    ('(see [1]/{2}|3_4*5+6~7\\8)', None),
    ("it's 3.50: ok.", "it's 3.50: ok."),
    ('a  b\t c\u00a0d\u2003e', 'a b c d e'),
    ('a \n\n\n  b\n', 'a \n b'),
    ('\n \n', ''),
    ('', ''),
  ],
)
def test_standardize(raw: str, expected: str | None):
  assert cleaning.standardize(raw) == _standardize_by_the_rules(raw)
  if expected is not None:
    assert cleaning.standardize(raw) == expected


def test_standardize_equals_its_rules_on_random_text():
  alphabet = 'ab.\'": ;;--!?_*~\\/|[](){}+,\n\t \u00a0\u2003—…´é\x1c\x0c\x85'
  draw = random.Random(0)
  for _ in range(3000):
    raw = ''.join(draw.choices(alphabet, k=draw.randrange(30)))
    assert cleaning.standardize(raw) == _standardize_by_the_rules(raw), repr(
      raw
    )


def test_mend_equals_ftfy_on_the_whole_text():
  pieces = [
    'plain, ASCII; text',
    'schÃ¶n',
    'sÃ³',
    '“curly” ‘quotes’',
    'ﬁne ligature',
    'ｆｕｌｌ',
    'a\u2028b',
    'a\rb',
    'bell\x07',
    '\x1b[31mred\x1b[0m',
    '&amp; <b>',
    'é combining e\u0301',
    'lone \ud83d half',
    '\ufeffmark',
    '',
  ]
  draw = random.Random(1)
  for _ in range(500):
    raw = '\n'.join(draw.choices(pieces, k=draw.randrange(1, 8)))
    assert cleaning.mend(raw) == ftfy.fix_text(raw, unescape_html=False), repr(
      raw
    )


def test_cleaning_twice_is_once():
  draw = random.Random(2)
  alphabet = 'abé “”—…-_"\'\n\t .,'
  for _ in range(1000):
    once = cleaning.clean(''.join(draw.choices(alphabet, k=40)))
    assert cleaning.clean(once) == once


def test_long_white_space_takes_no_long_time():
  assert cleaning.clean('a' + ' ' * 300_000 + 'b') == 'a b'


def test_clean_equals_its_rules_on_books(shared_data):
  for path in sorted((shared_data / 'books').glob('*.txt'))[::8]:
    raw = path.read_text('utf-8-sig')[:200_000]
    mended = ftfy.fix_text(raw, unescape_html=False)
    once = cleaning.clean(raw)
    assert once == _standardize_by_the_rules(mended), path.name
    assert cleaning.clean(once) == once


def test_paragraphs_joins_wrapped_lines():
  raw = (
    'CHAPTER ONE\n'
    '\n'
    'It was a dark and stormy night, and the rain fell in torrents, except at\n'
    'occasional intervals, when it was checked by a violent gust of wind that\n'
    'swept up the streets.\n'
    '\n'
    '"Who is there?" said a voice from behind the door, and it was the voice\n'
    'of an old man.\n'
  )
  assert cleaning.paragraphs(raw.replace('\n', '\r\n')).split('\n') == [
    'CHAPTER ONE',
    'It was a dark and stormy night, and the rain fell in torrents, except at '
    'occasional intervals, when it was checked by a violent gust of wind that '
    'swept up the streets.',
    '"Who is there?" said a voice from behind the door, and it was the voice '
    'of an old man.',
  ]


def test_paragraphs_keeps_verse_and_contents_within_wrapped_prose():
  prose = (
    'The river ran below the house, and the house looked down on the river as\n'
    'it had looked for a hundred years, without a word on either side of them.'
  )
  verse = 'For every tiny town or place\nGod made the stars especially;'
  contents = 'I The Wood\nII The River\nIII The Sea'
  raw = '\n\n'.join([prose, verse, prose, contents])
  joined = prose.replace('\n', ' ')
  assert cleaning.paragraphs(raw) == '\n'.join(
    [joined, verse, joined, contents]
  )


def test_paragraphs_leaves_one_paragraph_a_line():
  long = 'word ' * 60 + 'end.'
  raw = f'{long}\n\n"No," he said.\n"Yes," she said.\n{long}\n'
  assert cleaning.paragraphs(raw) == raw.replace('\n\n', '\n').strip()


def test_paragraphs_loses_no_word(shared_data):
  for path in sorted((shared_data / 'books').glob('*.txt'))[::5]:
    raw = path.read_text('utf-8-sig')
    assert cleaning.paragraphs(raw).split() == raw.split(), path.name


def test_a_document_is_cleaned_in_blocks_as_it_would_be_whole():
  """A paragraph of 20,000 lines is joined at once, not line by line."""
  line = 'and so the long road went on past the last house\u2014of the town\n'
  raw = '\r\r\n'.join(
    [f'\u201cNumber {i}!\u201d \n {line * 40}' for i in range(99)]
  )
  for text in (raw, line * 20_000, raw.replace('\n', '\r'), '\n\n' + raw[:9]):
    document = documents.Document('x', text)
    cleaned = pipeline.clean_document(document, library.settings(['x']))
    expected = cleaning.clean(cleaning.paragraphs(text))
    row, data = cleaned
    assert data.decode() == expected
    assert row.words == len(expected.split())
    assert row.num_bytes == len(data)


def test_paragraphs_of_nothing():
  assert cleaning.paragraphs('') == cleaning.paragraphs('\n\r\n \n') == ''


def test_words_are_split_at_white_space():
  assert cleaning.num_words('a , b \n c') == 4
