"""Reads Winograd schemas: sentences with a pronoun and two possible referents.

DPRD is the Definite Pronoun Resolution data (Rahman and Ng 2012) in blocks of
four lines. WSC273 (Levesque et al. 2011) is the first 273 schemas of the XML
collection, or JSON lines in any of the published forms. TFDS has both.
"""

import dataclasses
import itertools
import re
from collections.abc import Callable, Iterable, Iterator, Sequence
from typing import Any
from xml.etree import ElementTree

from gpt1_jax import errors
from gpt1_jax.tasks.readers import archives, rows, sources, tfds_rows

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
_WSC_ROWS = 273  # the first of the 285 in today's collection
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
  """A row that the published files contain and that states no question."""


def has(name: str, path: str) -> bool:
  """Returns True if `read` would find the file of the task, or TFDS's."""
  names, folders, address = _FILES[name]
  tfds = sources.tfds_folder(path)
  if tfds is not None:
    return tfds_rows.has(address, tfds)
  return archives.find(sources.folder_of(path), names, folders) is not None


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
    the sentence, it has not two referents, or its answer is neither of them.

  Raises:
    UserError: the file is missing (lists the places searched) or malformed
      (names the line).
  """
  names, folders, address = _FILES[name]
  tfds = sources.tfds_folder(path)
  if tfds is not None:
    origin = f'tfds:{address}'
    located = ((row.where, row.cells) for row in tfds_rows.read(address, tfds))
    return _schemas(origin, located, _from_json)
  folder = sources.folder_of(path)
  source = archives.find(folder, names, folders)
  if source is None:
    looked = archives.looked_for(folder, names, folders)
    raise errors.UserError(f'no test file of task {name}: {looked}')
  if name == 'dprd':
    return _schemas(str(source), _blocks(source), _from_block)
  if source.name.endswith('.xml'):
    elements = itertools.islice(_elements(source), _WSC_ROWS)
    return _schemas(str(source), elements, _from_element)
  lines = itertools.islice(rows.read(source, ()), _WSC_ROWS)
  located = ((row.where, row.cells) for row in lines)
  return _schemas(str(source), located, _from_json)


def _schemas(
  origin: str,
  located_rows: Iterable[tuple[str, Any]],
  make: Callable[[Any, str], Schema],
) -> tuple[list[Schema], list[str]]:
  schemas, skipped = [], []
  for where, row in located_rows:
    try:
      schemas.append(make(row, where))
    except _UnusableRowError as error:
      skipped.append(f'{where}: {error}')
  if not schemas:
    reason = f'; {skipped[0]}' if skipped else ''
    raise errors.UserError(f'{origin}: no row can be used{reason}')
  return schemas, skipped


def _blocks(source: archives.Source) -> Iterator[tuple[str, list[str]]]:
  """Yields the blocks of four lines between blank lines."""
  numbered = [(n, ' '.join(line.split())) for n, line in rows.lines(source)]
  for blank, group in itertools.groupby(numbered, lambda pair: not pair[1]):
    if blank:
      continue
    numbers, block = zip(*group, strict=True)
    where = f'{source}:{numbers[0]}'
    if len(block) != 4:
      raise errors.UserError(
        f'{where}: {len(block)} lines between blank lines; expected four: '
        'sentence, pronoun, two candidates with a comma, answer'
      )
    yield where, list(block)


def _from_block(block: list[str], where: str) -> Schema:
  del where
  sentence, pronoun, listed, answer = block
  candidates = [candidate.strip() for candidate in listed.split(',')]
  if len(candidates) != 2 or not all(candidates):
    raise _UnusableRowError(f'candidates {listed!r}, not two with a comma')
  folded = [candidate.casefold() for candidate in candidates]
  if answer.casefold() not in folded or len(set(folded)) < 2:
    raise _UnusableRowError(
      f'answer {answer!r} is not one of {candidates[0]!r}, {candidates[1]!r}'
    )
  label = folded.index(answer.casefold())
  return _substituted(sentence, _find(pronoun, sentence), candidates, label)


def _find(pronoun: str, sentence: str) -> tuple[int, int]:
  """Returns start and end of the first occurrence of a word."""
  for flags in (re.NOFLAG, re.IGNORECASE):
    word = re.search(rf'(?<!\w){re.escape(pronoun)}(?!\w)', sentence, flags)
    if word:
      return word.span()
  raise _UnusableRowError(f'pronoun {pronoun!r} is not in the sentence')


def _substituted(
  text: str, span: tuple[int, int], candidates: Sequence[str], label: int
) -> Schema:
  before, after = text[: span[0]], text[span[1] :]
  first, second = candidates
  return Schema((before + first, before + second), after, label)


def _elements(
  source: archives.Source,
) -> Iterator[tuple[str, ElementTree.Element]]:
  with source.open() as stream:
    try:
      root = ElementTree.parse(stream).getroot()
    except (ElementTree.ParseError, ValueError, LookupError) as error:
      raise errors.UserError(f'{source}: not XML ({error})') from None
  for number, element in enumerate(root.iter('schema'), 1):
    yield f'{source}, schema {number}', element


def _from_element(element: ElementTree.Element, where: str) -> Schema:
  def texts(path: str) -> list[str]:
    found = element.iterfind(path)
    return [' '.join(''.join(part.itertext()).split()) for part in found]

  before, pronoun, after, letter = (
    ''.join(texts(path)[:1])
    for path in ('text/txt1', 'text/pron', 'text/txt2', 'correctAnswer')
  )
  answers, letter = texts('answers/answer'), letter.rstrip('.')
  if not pronoun or len(answers) != 2 or letter not in ('A', 'B'):
    raise errors.UserError(
      f'{where}: not in the form of the collection: text (txt1, pron, txt2), '
      'two answers, correctAnswer A or B'
    )
  attached = not after or re.match(r"[.,;:!?')\]]", after)
  before, after = before and f'{before} ', after if attached else f' {after}'
  return Schema(
    (before + answers[0], before + answers[1]), after, 'AB'.index(letter)
  )


def _from_json(row: dict[str, Any], where: str) -> Schema:
  """Reads a row of one of `_JSON_FORMS`; an `answer` counts from 1."""
  try:
    if 'answer' in row:
      label = int(row['answer']) - 1
    else:
      label = int(
        row.get('label number', row.get('label', row.get('gold', -1)))
      )
    if label not in (0, 1):
      raise ValueError
    if 'context_options' in row:
      first, second = (text.rstrip() for text in row['context_options'])
      after = row['continuation']
      after = after if after[:1].isspace() else f' {after}'
      return Schema((first, second), after, label)
    options = row.get('options', row.get('candidates'))
    first, second = options or (row['option1'], row['option2'])
    options = first.strip(), second.strip()
    text = row['text'] if 'text' in row else row['sentence']
    if 'pronoun_loc' in row:
      pronoun = row['pronoun']
      start = int(row['pronoun_loc'])
      end = start + len(pronoun)
    elif 'pronoun_start' in row:
      start, end = int(row['pronoun_start']), int(row['pronoun_end'])
      pronoun = row.get('pronoun_text', text[start:end])
    elif 'pronoun' in row:
      pronoun = row['pronoun']
      start, end = _find(pronoun, text)
    else:
      pronoun, start = '_', text.index('_')
      end = start + 1
    if text[start:end].casefold() != pronoun.casefold():
      raise _UnusableRowError(
        f'pronoun {pronoun!r} is not at {start} of the text'
      )
    return _substituted(text, (start, end), options, label)
  except (KeyError, TypeError, ValueError, AttributeError):
    raise errors.UserError(
      f'{where}: not a schema in a known form: {_JSON_FORMS}'
    ) from None
