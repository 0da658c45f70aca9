"""From raw text to clean text: ftfy, paragraphs, standardisation.

`clean` is what every text passes before it is tokenised, in pretraining and in
fine-tuning alike; `paragraphs` is for books, whose lines may be hard-wrapped.
Letters keep their case here: the tokenizer lower-cases.
"""

import re

import ftfy

VERSION = 1  # in meta.json as `cleaning`: raise it when the output changes

_CONFIG = ftfy.TextFixerConfig(explain=False)
_CONFIG_NO_HTML = _CONFIG._replace(unescape_html=False)

# ftfy leaves a line of these alone: printable ASCII but `&` (HTML), and tab.
_TOUCHED = re.compile(r'[^\t\x20-\x25\x27-\x7e]')

# REFERENCE §3: one kind of dash, dots and apostrophe ...
_MARKS = str.maketrans(
  {'\u2014': '-', '\u2013': '-', '\u2015': '-', '\u2026': '...', '\u00b4': "'"}
)
# ... and a space on both sides of any run of one of these characters.
_RUNS = re.compile(r'([-~!";?+,)(\\/*\[\]}{|_])\1*')

# Widths of a hard-wrapped text, in characters; wider lines are paragraphs.
_NARROWEST, _WIDEST = 40, 110
_BULLET = re.compile(r'\s*(?:[*+•·-]|\(?\d{1,3}[.)])\s')


def clean(text: str) -> str:
  r"""Returns `text` mended by ftfy and standardised, in its own case.

  Paragraphs are joined by ' \n '; inside one, words are joined by one space.
  The result has no other white space. `clean(clean(x)) == clean(x)` but for
  what ftfy reads anew in its own output (`&amp;lt;`).

  Source: P §4.1, REFERENCE §3.
  """
  return standardise(fix(text))


def fix(text: str) -> str:
  """Returns `ftfy.fix_text(text)`, without the work where it changes nothing."""
  if not _TOUCHED.search(text.replace('\n', ' ')):
    return text
  # ftfy stops reading HTML entities at the first line that has a `<`.
  tag = text.find('<')
  lines, position = text.split('\n'), 0
  for i, line in enumerate(lines):
    end = position + len(line)
    if _TOUCHED.search(line):
      config = _CONFIG if tag < 0 or end <= tag else _CONFIG_NO_HTML
      lines[i] = ftfy.fix_text(line, config)
    position = end + 1
  return '\n'.join(lines)


def standardise(text: str) -> str:
  r"""Sets punctuation apart, white space to ' ' or ' \n ' (REFERENCE §3)."""
  text = _RUNS.sub(r' \g<0> ', text.translate(_MARKS))
  lines = (' '.join(line.split()) for line in text.split('\n'))
  return ' \n '.join(line for line in lines if line)


def paragraphs(text: str) -> str:
  """Joins hard-wrapped lines, so that a paragraph is a line.

  The rule looks at line lengths only. A break between two lines is *forced*
  when the first word of the second would not have fitted on the first. A text
  is hard-wrapped when its lines are at most about 110 characters wide and most
  breaks between neighbouring lines are forced; any other text (one paragraph a
  line, verse, lists, code) is returned as it is. In a hard-wrapped text a break
  goes when it is forced, or when the line is more than half full and either
  the next goes on in lower case or most breaks of its block (the lines between
  two blank ones) are forced. It stays before an indented line or a list item.
  So verse, headings and tables of contents, whose lines are short of the
  width, keep their lines, and texts without blank lines come right as well.
  """
  text = text.replace('\r\n', '\n').replace('\r', '\n')
  lines = [line.rstrip() for line in text.split('\n')]
  width = _width(lines)
  if not width:
    return '\n'.join(lines)
  blank = sum(not line for line in lines[1:-1])
  blocks = blank > 0.02 * len(lines)
  out, block = [], []
  for line in lines:
    if line:
      block.append(line)
      continue
    out += _join(block, width, blocks)
    out.append('')
    block = []
  return '\n'.join(out + _join(block, width, blocks))


def _forced(line: str, following: str, width: int) -> bool:
  word = following.split(None, 1)[0]
  return len(line) + 1 + len(word) > width


def _width(lines: list[str]) -> int:
  """The width a text was wrapped at, or 0 where it was not."""
  lengths = sorted(len(line) for line in lines if line)
  pairs = [(a, b) for a, b in zip(lines, lines[1:], strict=False) if a and b]
  if len(pairs) < 2:
    return 0
  # A few lines stick out of the best wrapped text: 9 in 10 set the width.
  width = lengths[int(0.9 * (len(lengths) - 1))]
  long = lengths[int(0.99 * (len(lengths) - 1))]
  if not _NARROWEST <= width <= _WIDEST or long > 2 * width:
    return 0
  forced = sum(_forced(a, b, width - width // 10) for a, b in pairs)
  return width - width // 10 if forced > 0.5 * len(pairs) else 0


def _join(block: list[str], width: int, blocks: bool) -> list[str]:
  """Joins the wrapped lines of one block (lines without a blank between)."""
  if len(block) < 2:
    return block
  breaks = [
    _forced(a, b, width) for a, b in zip(block, block[1:], strict=False)
  ]
  prose = blocks and sum(breaks) > 0.5 * len(breaks)
  out = [block[0]]
  for i, line in enumerate(block[1:]):
    before, start = block[i], line.lstrip()
    indented = len(line) - len(start) > len(before) - len(before.lstrip())
    runs_on = len(before) > width // 2 and (prose or start[0].islower())
    if (breaks[i] or runs_on) and not indented and not _BULLET.match(line):
      out[-1] += ' ' + start
    else:
      out.append(line)
  return out
