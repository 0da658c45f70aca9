"""Reads Winograd schemas: sentences with a pronoun and two possible referents.

DPRD is the Definite Pronoun Resolution data (Rahman and Ng 2012) in blocks of
four lines. WSC273 (Levesque et al. 2011) is the first 273 schemas of the XML
collection, or JSON lines in any of the published forms. TFDS has both.
"""

import dataclasses
import itertools
import re
from collections.abc import Iterator
from xml.etree import ElementTree

from gpt1_jax.errors import UserError
from gpt1_jax.tasks.readers import archives, rows, sources, tfds_rows
from gpt1_jax.tasks.readers.rows import Cells, Row

# Task -> file names, preferred first; folders or archives; TFDS address.
_FILES = {
  'dprd': (
    ('test.c.txt',),
    ('DPRD', 'DPR', 'emnlp12', 'definite_pronoun_resolution'),
    'definite_pronoun_resolution:test',
  ),
  'wsc273': (
    ('WSCollection.xml', 'wsc273.jsonl', 'wsc273.json', 'winograd_wsc.jsonl'),
    ('WSC273', 'WSC', 'winograd', 'winograd_wsc'),
    'wsc273:test',
  ),
}
TASKS = tuple(_FILES)
_WSC_ROWS = 273  # the first 273 of the 285 in today's collection
_JSON_FORMS = (
  "'text', 'pronoun', 'pronoun_loc', 'options', 'label'; or 'text', "
  "'option1', 'option2', 'pronoun_start', 'pronoun_end', 'label'; or "
  "'sentence' with one _, 'option1', 'option2', 'answer'; or "
  "'context_options', 'continuation', 'gold'; or 'sentence', 'pronoun', "
  "'candidates', 'label'"
)


@dataclasses.dataclass(frozen=True)
class Schema:
  """One question.

  Attributes:
    befores: for each referent, the text up to the pronoun and the referent in
      its place.
    after: the rest of the text. It begins with a space unless it is attached
      to the referent (punctuation, "'s").
    label: number of the right referent.
  """

  befores: tuple[str, str]
  after: str
  label: int


class _UnusableRowError(Exception):
  """Raised for a row of the published files without a usable question."""


def read(name: str, path: str) -> tuple[list[Schema], list[str]]:
  """Reads the schemas of a task, in the order of its file.

  The referent replaces the pronoun unchanged: `his` becomes `Tom`, not `Tom's`
  (P §5 substitutes; `her` would be ambiguous). A pronoun without a given
  position is the first occurrence of the word in the sentence (the rule of the
  authors of DPRD), with the same capitals if there is one.

  Args:
    name: an element of `TASKS`.
    path: folder, zip or tar, as for the other tasks; or `tfds[:FOLDER]`.

  Returns:
    The schemas, and a line for each row left out because its pronoun is not in
    the sentence, it lacks two referents, or its answer is neither of them.

  Raises:
    MissingError: the file is not found (lists the places searched).
    UserError: it is malformed (names the line).
  """
  origin, found = _rows(name, path)
  if name == 'wsc273':
    found = itertools.islice(found, _WSC_ROWS)
  schemas, skipped = [], []
  for row in found:
    try:
      schemas.append(_schema(row.cells))
    except _UnusableRowError as error:
      skipped.append(f'{row.where}: {error}')
    except (KeyError, TypeError, ValueError, AttributeError):
      raise UserError(
        f'{row.where}: not a schema in a known form: {_JSON_FORMS}'
      ) from None
  if not schemas:
    reason = f'; {skipped[0]}' if skipped else ''
    raise UserError(f'{origin}: no row can be used{reason}')
  return schemas, skipped


def _rows(name: str, path: str) -> tuple[str, Iterator[Row]]:
  """Returns the origin of the rows, and the rows in one of `_JSON_FORMS`."""
  names, folders, address = _FILES[name]
  tfds = sources.tfds_folder(path)
  if tfds is not None:
    return f'tfds:{address}', iter(tfds_rows.read(address, tfds))
  folder = sources.folder_of(path)
  found = archives.find(folder, names, folders)
  if not found:
    raise archives.missing(f'test file of task {name}', folder, names, folders)
  source = found[0]
  if name == 'dprd':
    return str(source), _blocks(source)
  if source.name.endswith('.xml'):
    return str(source), _elements(source)
  return str(source), rows.read(source, ())


def _blocks(source: archives.Source) -> Iterator[Row]:
  """Reads the blocks of four lines between blank lines."""
  numbered = [(n, ' '.join(line.split())) for n, line in rows.lines(source)]
  for blank, group in itertools.groupby(numbered, lambda pair: not pair[1]):
    if blank:
      continue
    numbers, block = zip(*group, strict=True)
    where = f'{source}:{numbers[0]}'
    if len(block) != 4:
      raise UserError(
        f'{where}: {len(block)} lines between blank lines; expected four: '
        'sentence, pronoun, two candidates with a comma, answer'
      )
    sentence, pronoun, listed, right = block
    candidates = [candidate.strip() for candidate in listed.split(',')]
    cells = {'sentence': sentence, 'pronoun': pronoun, 'right': right}
    yield Row(where, {**cells, 'candidates': candidates})


def _elements(source: archives.Source) -> Iterator[Row]:
  """Reads the XML collection."""
  with source.open() as stream:
    try:
      root = ElementTree.parse(stream).getroot()
    except (ElementTree.ParseError, ValueError, LookupError) as error:
      raise UserError(f'{source}: not XML ({error})') from None
  for number, element in enumerate(root.iter('schema'), 1):
    before, pronoun, after, letter = (
      ''.join(_texts(element, path)[:1])
      for path in ('text/txt1', 'text/pron', 'text/txt2', 'correctAnswer')
    )
    answers, letter = _texts(element, 'answers/answer'), letter.rstrip('.')
    if not pronoun or len(answers) != 2 or letter not in ('A', 'B'):
      raise UserError(
        f'{source}, schema {number}: not in the form of the collection: text '
        '(txt1, pron, txt2), two answers, correctAnswer A or B'
      )
    cells = {
      'context_options': [f'{before} {answer}'.lstrip() for answer in answers],
      'continuation': after,
      'gold': 'AB'.index(letter),
    }
    yield Row(f'{source}, schema {number}', cells)


def _texts(element: ElementTree.Element, path: str) -> list[str]:
  found = element.iterfind(path)
  return [' '.join(''.join(part.itertext()).split()) for part in found]


def _schema(row: Cells) -> Schema:
  """Reads a row of one of `_JSON_FORMS`; an `answer` counts from 1.

  Raises:
    KeyError, TypeError, ValueError, AttributeError: the row has none of them.
  """
  options = row.get('options', row.get('candidates'))
  if 'right' in row:
    label = _position(row['right'], row['candidates'])
  elif 'answer' in row:
    label = int(row['answer']) - 1
  else:
    keys = ('label number', 'label', 'gold')
    label = int(next((row[key] for key in keys if key in row), -1))
  if label not in (0, 1):
    raise ValueError
  if 'context_options' in row:
    first, second = (text.rstrip() for text in row['context_options'])
    after = row['continuation']
    attached = not after or re.match(r"[\s.,;:!?')\]]", after)
    return Schema((first, second), after if attached else f' {after}', label)
  first, second = options or (row['option1'], row['option2'])
  text = row['text'] if 'text' in row else row['sentence']
  start, end = _span(row, text)
  before, after = text[:start], text[end:]
  return Schema((before + first.strip(), before + second.strip()), after, label)


def _span(row: Cells, text: str) -> tuple[int, int]:
  """Returns the start and the end of the pronoun."""
  if 'pronoun_loc' in row:
    pronoun, start = row['pronoun'], int(row['pronoun_loc'])
    end = start + len(pronoun)
  elif 'pronoun_start' in row:
    start, end = int(row['pronoun_start']), int(row['pronoun_end'])
    pronoun = row.get('pronoun_text', text[start:end])
  elif 'pronoun' in row:
    return _find(row['pronoun'], text)
  else:
    start = text.index('_')
    return start, start + 1
  if text[start:end].casefold() != pronoun.casefold():
    raise _UnusableRowError(
      f'pronoun {pronoun!r} is not at {start} of the text'
    )
  return start, end


def _find(pronoun: str, sentence: str) -> tuple[int, int]:
  """Returns start and end of the first occurrence of a word."""
  for flags in (re.NOFLAG, re.IGNORECASE):
    word = re.search(rf'(?<!\w){re.escape(pronoun)}(?!\w)', sentence, flags)
    if word:
      return word.span()
  raise _UnusableRowError(f'pronoun {pronoun!r} is not in the sentence')


def _position(right: str, candidates: list[str]) -> int:
  """Returns the number of the candidate that is the right answer."""
  if len(candidates) != 2 or not all(candidates):
    listed = ','.join(candidates)
    raise _UnusableRowError(f'candidates {listed!r}, not two with a comma')
  folded = [candidate.casefold() for candidate in candidates]
  if right.casefold() not in folded or len(set(folded)) < 2:
    raise _UnusableRowError(
      f'answer {right!r} is not one of {candidates[0]!r}, {candidates[1]!r}'
    )
  return folded.index(right.casefold())
