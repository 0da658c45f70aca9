"""Reads Winograd schemas: which of two referents a pronoun stands for.

The Definite Pronoun Resolution data (Rahman and Ng 2012) in its four-line
blocks; WSC273 (Levesque et al. 2011), the first 273 schemas of the XML
collection, or as JSON lines in the forms that other projects hand it out in;
both from TFDS, too.
"""

import dataclasses
import itertools
import re
from collections.abc import Callable, Iterator, Sequence
from typing import Any
from xml.etree import ElementTree

from gpt1_jax import errors
from gpt1_jax.tasks.readers import archives, rows, sources, tfds_rows

# Task -> file names, most wanted first; folders or archives; address in TFDS.
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
_WSC_ROWS = 273  # of 285 in today's collection; the first of them
# What a row of JSON may hold, in words for an error.
_FORMS = (
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
    befores: the text up to the pronoun and, in its place, each referent.
    after: the rest of the text, the same for both; joined to `befores` as it
      is (it begins with a space unless it is attached: punctuation, "'s").
    label: number of the right referent.
  """

  befores: tuple[str, str]
  after: str
  label: int


class _OddError(Exception):
  """Why a row of the published files cannot be used."""


def has(name: str, path: str) -> bool:
  """Whether `read` would find the task's file (or TFDS's data set)."""
  names, folders, address = _FILES[name]
  tfds = sources.tfds_folder(path)
  if tfds is not None:
    return tfds_rows.has(address, tfds)
  return archives.find(sources.folder_of(path), names, folders) is not None


def read(name: str, path: str) -> tuple[list[Schema], list[str]]:
  """Reads the schemas of a task, in the order of its file.

  The referent stands in the pronoun's place as it is: `his` becomes `Tom`,
  not `Tom's` (P §5 substitutes; `her` could not be told apart). Where a
  pronoun has no position of its own, its first occurrence as a word is meant
  (the authors' words), in its own capitals if there is one.

  Args:
    name: of `TASKS`.
    path: a folder, zip or tar, as for the other tasks; or `tfds[:FOLDER]`.

  Returns:
    The schemas, and a line for each odd row left out: the pronoun is not in
    the sentence, there are not two referents, or the answer is neither.

  Raises:
    UserError: no such file (says what was looked for), or one that is not of
      this form (says where).
  """
  names, folders, address = _FILES[name]
  tfds = sources.tfds_folder(path)
  if tfds is not None:
    origin = f'tfds:{address}'
    found = ((row.where, row.cells) for row in tfds_rows.read(address, tfds))
    return _schemas(origin, found, _from_json)
  folder = sources.folder_of(path)
  source = archives.find(folder, names, folders)
  if source is None:
    looked = archives.looked_for(folder, names, folders)
    raise errors.UserError(f'no test file of task {name}: {looked}')
  if name == 'dprd':
    return _schemas(source, _blocks(source), _from_block)
  if source.name.endswith('.xml'):
    found = itertools.islice(_elements(source), _WSC_ROWS)
    return _schemas(source, found, _from_element)
  lines = ((row.where, row.cells) for row in rows.read(source, ()))
  return _schemas(source, itertools.islice(lines, _WSC_ROWS), _from_json)


def _schemas(
  origin: Any,
  found: Iterator[tuple[str, Any]],
  make: Callable[[Any, str], Schema],
) -> tuple[list[Schema], list[str]]:
  schemas, odd = [], []
  for where, row in found:
    try:
      schemas.append(make(row, where))
    except _OddError as why:
      odd.append(f'{where}: {why}')
  if not schemas:
    raise errors.UserError(
      f'{origin}: no row can be used' + (f'; {odd[0]}' if odd else '')
    )
  return schemas, odd


def _blocks(source: archives.Source) -> Iterator[tuple[str, list[str]]]:
  """Runs of four lines between blank ones."""
  block: list[str] = []
  start = 0
  lines = rows.lines(source)
  for number, line in itertools.chain(lines, [(-1, '')]):
    line = ' '.join(line.split())
    if line:
      start = start if block else number
      block.append(line)
      continue
    if block and len(block) != 4:
      raise errors.UserError(
        f'{source}:{start}: {len(block)} lines between blank ones; four are '
        'wanted: sentence, pronoun, two candidates with a comma, answer'
      )
    if block:
      yield f'{source}:{start}', block
    block = []


def _from_block(block: list[str], where: str) -> Schema:
  del where
  sentence, pronoun, listed, answer = block
  candidates = [candidate.strip() for candidate in listed.split(',')]
  if len(candidates) != 2 or not all(candidates):
    raise _OddError(f'candidates {listed!r}, not two with a comma')
  return _by_word(sentence, pronoun, candidates, _label_of(answer, candidates))


def _label_of(answer: str, candidates: Sequence[str]) -> int:
  spelled = [candidate.casefold() for candidate in candidates]
  if answer.casefold() not in spelled or len(set(spelled)) < 2:
    raise _OddError(
      f'answer {answer!r} is not one of {candidates[0]!r}, {candidates[1]!r}'
    )
  return spelled.index(answer.casefold())


def _by_word(
  sentence: str, pronoun: str, candidates: Sequence[str], label: int
) -> Schema:
  for flags in (0, re.IGNORECASE):
    word = re.search(rf'(?<!\w){re.escape(pronoun)}(?!\w)', sentence, flags)
    if word:
      return _placed(sentence, word.start(), word.end(), candidates, label)
  raise _OddError(f'pronoun {pronoun!r} is not in the sentence')


def _placed(
  text: str, start: int, end: int, candidates: Sequence[str], label: int
) -> Schema:
  befores = tuple(text[:start] + candidate for candidate in candidates)
  return Schema(befores, text[end:], label)


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
  def text(name: str) -> str:
    found = element.find(name)
    return '' if found is None else ' '.join(''.join(found.itertext()).split())

  before, pronoun, after = (text(f'text/{n}') for n in ('txt1', 'pron', 'txt2'))
  answers = [
    ' '.join(''.join(answer.itertext()).split())
    for answer in element.iterfind('answers/answer')
  ]
  letter = text('correctAnswer').rstrip('.')
  if not pronoun or len(answers) != 2 or letter not in ('A', 'B'):
    raise errors.UserError(
      f'{where}: not as the collection has it: text (txt1, pron, txt2), two '
      'answers, correctAnswer A or B'
    )
  before = f'{before} ' if before else ''
  attached = not after or re.match(r"[.,;:!?')\]]", after)
  return Schema(
    (before + answers[0], before + answers[1]),
    after if attached else f' {after}',
    'AB'.index(letter),
  )


def _from_json(row: dict[str, Any], where: str) -> Schema:
  """A row of one of `_FORMS`; labels are 0-based numbers, `answer` 1-based."""
  try:
    label = row.get('label number', row.get('label', row.get('gold')))
    label = int(row['answer']) - 1 if 'answer' in row else int(label)
    if label not in (0, 1):
      raise ValueError
    if 'context_options' in row:
      first, second = row['context_options']
      after = row['continuation']
      after = after if after[:1].isspace() else f' {after}'
      return Schema((first.rstrip(), second.rstrip()), after, label)
    options = row.get('options', row.get('candidates'))
    first, second = options or (row['option1'], row['option2'])
    options = first.strip(), second.strip()
    if 'pronoun_loc' in row:
      start = int(row['pronoun_loc'])
      end = start + len(row['pronoun'])
      text, pronoun = row['text'], row['pronoun']
    elif 'pronoun_start' in row:
      start, end = int(row['pronoun_start']), int(row['pronoun_end'])
      text = row['text']
      pronoun = row.get('pronoun_text', text[start:end])
    elif 'pronoun' in row:
      return _by_word(row['sentence'], row['pronoun'], options, label)
    else:
      text, pronoun = row['sentence'], '_'
      start = text.index('_')
      end = start + 1
    if text[start:end].casefold() != pronoun.casefold():
      raise _OddError(f'pronoun {pronoun!r} is not at {start} of the text')
    return _placed(text, start, end, options, label)
  except (KeyError, TypeError, ValueError, AttributeError):
    raise errors.UserError(
      f'{where}: not a schema as it is known here: {_FORMS}'
    ) from None
