"""Cleans text before it is counted or encoded.

`paragraphs` joins hard-wrapped lines, so that each line is a paragraph; ftfy
repairs encoding damage; `standardize` treats punctuation and white space as the
released code does (docs/reference.md §3, C: text_utils.py).
"""

import collections
import re
from collections.abc import Iterator

import ftfy

# Recorded in meta.json; raise it when the cleaned text changes.
CLEANING_VERSION = 1

REPLACEMENTS = (
  ('—', '-'),
  ('–', '-'),
  ('―', '-'),
  ('…', '...'),
  ('´', "'"),
)
SPACED_MARKS = '-~!";?+,)(\\/*[]}{|_'
SEPARATOR = ' \n '  # between the lines of cleaned text

_FTFY = ftfy.TextFixerConfig(unescape_html=False, explain=False)
# ftfy leaves printable ASCII alone.
_NEEDS_FTFY = re.compile(r'[^\t\n\x20-\x7e]')
# A file is taken to be hard-wrapped if 95% of its lines are at most this long.
_WRAPPED_WIDTH = 100
_LINE = re.compile(r'[^\r\n]*(?:\r\n|\r|\n)?')
# The marks around the text of a book, and credits that volunteers added.
_GUTENBERG = re.compile(
  r'^[^\S\n]*\*\*\* ?(START|END) OF TH(?:E|IS) PROJECT GUTENBERG EBOOK'
  r'[^*]{0,300}\*\*\*',
  re.IGNORECASE | re.MULTILINE,
)
_CREDITS = re.compile(
  r'\A\s*(?:Produced|E-text prepared|Transcribed) (?:by|from)\b.*?\n\s*\n'
  r'|^[^\S\n]*End of (?:the )?Project Gutenberg.*\Z',
  re.IGNORECASE | re.MULTILINE | re.DOTALL,
)


def clean(text: str) -> str:
  """Repairs and standardises text; keeps its case. Idempotent."""
  return standardize(mend(text))


def mend(text: str) -> str:
  """Applies `ftfy.fix_text` to the lines that need it; keeps HTML entities."""
  if not _NEEDS_FTFY.search(text):
    return text
  return '\n'.join(
    ftfy.fix_text(line, config=_FTFY) if _NEEDS_FTFY.search(line) else line
    for line in text.split('\n')
  )


def standardize(text: str) -> str:
  r"""Standardises punctuation and white space as the released code does.

  Dashes become `-`, an ellipsis `...`, an acute accent `'`. Spaces surround
  each run of one of the marks `SPACED_MARKS`. A newline becomes ` \n `, other
  white space one space; none remains at the ends.
  """
  if not text.isascii():
    for mark, plain in REPLACEMENTS:
      text = text.replace(mark, plain)
  # str.replace is several times as fast as one regular expression.
  for mark in SPACED_MARKS:
    if mark in text:
      has_run = mark + mark in text
      text = text.replace(mark, f' {mark} ')
      while has_run:  # two spaces now stand only between marks of one run
        text = text.replace(f'{mark}  {mark}', mark + mark)
        has_run = f'{mark}  {mark}' in text
  lines = (' '.join(line.split()) for line in text.split('\n'))
  return SEPARATOR.join(line for line in lines if line)


def has_gutenberg(text: str) -> bool:
  """Returns True if `strip_gutenberg` would remove something."""
  return bool(_GUTENBERG.search(text))


def strip_gutenberg(text: str) -> str:
  """Removes header, credits and licence that Project Gutenberg adds."""
  begin, end = 0, len(text)
  for mark in _GUTENBERG.finditer(text):
    if mark[1].upper() == 'START':
      begin = mark.end()
    elif mark.start() > begin:
      end = mark.start()
      break
  if (begin, end) == (0, len(text)):
    return text
  return _CREDITS.sub('', text[begin:end])


def paragraphs(text: str) -> str:
  """Joins hard-wrapped lines, so that each paragraph is one line."""
  return '\n'.join(read_paragraphs(text))


def read_paragraphs(text: str) -> Iterator[str]:
  """Yields the paragraphs of a file, each as one line.

  A blank line ends a paragraph. In a hard-wrapped file (95% of its lines have
  at most 100 characters) a line break within a block is removed only where the
  line is nearly full: where the next word would extend it beyond three quarters
  of the usual width. So verse, headings and tables of contents keep their
  lines. Files with one paragraph on each line stay as they are.
  """
  width = _usual_width(text)
  joined: list[str] = []  # lines of the paragraph so far
  for line in _lines(text):
    wraps = width <= _WRAPPED_WIDTH and joined and line
    if not (wraps and _is_wrap(joined[-1], line, width)):
      if joined:
        yield ' '.join(joined)
      joined.clear()
    if line:
      joined.append(line)
  if joined:
    yield ' '.join(joined)


def _lines(text: str) -> Iterator[str]:
  """Yields stripped lines one by one: all at once need several times `text`."""
  for match in _LINE.finditer(text):
    yield match[0].strip()


def _usual_width(text: str) -> int:
  """Returns the length that 95% of the non-blank lines do not exceed."""
  counts = collections.Counter(map(len, _lines(text)))
  del counts[0]
  rest = int(0.95 * (counts.total() - 1))
  for length in sorted(counts):
    rest -= counts[length]
    if rest < 0:
      return length
  return 0


def _is_wrap(line: str, following: str, width: int) -> bool:
  next_word = following.split(' ', 1)[0]
  return len(line) + 1 + len(next_word) > 0.75 * width


def num_words(text: str) -> int:
  """Counts the white-space separated words of cleaned text."""
  return len(text.split())
