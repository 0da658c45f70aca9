"""Cleaning: what every text goes through before it is counted or encoded.

ftfy mends encoding damage; `standardize` is the released code's treatment of
punctuation and white space (REFERENCE §3, C: text_utils.py); `paragraphs`
undoes hard line wraps first, so that a line is a paragraph.
"""

import re

import ftfy

# Goes into meta.json; raise it when cleaning changes what comes out.
CLEANING_VERSION = 1

_FTFY = ftfy.TextFixerConfig(unescape_html=False, explain=False)
# ftfy leaves printable ASCII alone.
_MENDED = re.compile(r'[^\t\n\x20-\x7e]')
REPLACED = (('—', '-'), ('–', '-'), ('―', '-'), ('…', '...'), ('´', "'"))
SET_APART = '-~!";?+,)(\\/*[]}{|_'

# A file whose longest lines (but for one in twenty) are at most this long is
# taken to be hard-wrapped.
_WRAPPED_WIDTH = 100


def clean(text: str) -> str:
  """ftfy, then `standardize`; the case is kept. Cleaning twice is once."""
  return standardize(mend(text))


def mend(text: str) -> str:
  """`ftfy.fix_text` (HTML entities kept), only over the lines that need it."""
  if not _MENDED.search(text):
    return text
  return '\n'.join(
    ftfy.fix_text(line, config=_FTFY) if _MENDED.search(line) else line
    for line in text.split('\n')
  )


def standardize(text: str) -> str:
  r"""Punctuation and white space as the released text_utils.py has them.

  Dashes become `-`, an ellipsis `...`, an acute accent `'`; runs of most
  punctuation marks stand between spaces; a newline is ` \n `; other white
  space is one space; none at the ends.
  """
  if not text.isascii():
    for mark, plain in REPLACED:
      text = text.replace(mark, plain)
  # Plain replacement is several times as fast as one regular expression.
  for mark in SET_APART:
    if mark in text:
      runs = mark + mark in text
      text = text.replace(mark, f' {mark} ')
      while runs:  # neighbours, and only they, now stand two spaces apart
        text = text.replace(f'{mark}  {mark}', mark + mark)
        runs = f'{mark}  {mark}' in text
  lines = (' '.join(line.split()) for line in text.split('\n'))
  return ' \n '.join(line for line in lines if line)


def paragraphs(text: str) -> str:
  """Joins hard-wrapped lines, so that each paragraph is one line.

  A blank line ends a paragraph. Where the file is hard-wrapped (95% of its
  lines are at most 100 characters long), a line break within a block is a
  wrap, and goes, only if the line is nearly full: if the next word would have
  taken it past three quarters of the usual width. So verse, headings and
  contents keep their lines. Files of one paragraph a line stay as they are.
  """
  text = text.replace('\r\n', '\n').replace('\r', '\n')
  lines = [line.strip() for line in text.split('\n')]
  lengths = sorted(len(line) for line in lines if line)
  if not lengths:
    return ''
  width = lengths[int(0.95 * (len(lengths) - 1))]
  if width > _WRAPPED_WIDTH:
    return '\n'.join(line for line in lines if line)
  out: list[str] = []
  last = ''  # the line before this one, '' after a blank line
  for line in lines:
    if line and last and _is_wrap(last, line, width):
      out[-1] += ' ' + line
    elif line:
      out.append(line)
    last = line
  return '\n'.join(out)


def _is_wrap(line: str, following: str, width: int) -> bool:
  next_word = following.split(' ', 1)[0]
  return len(line) + 1 + len(next_word) > 0.75 * width


def num_words(text: str) -> int:
  """White-space separated words of a cleaned text."""
  return len(text.split())
