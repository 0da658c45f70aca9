"""Renders a report as HTML (page.html, page.css) and as Markdown.

The page needs no network and no script, and jinja2 escapes all text from runs.
"""

import dataclasses
import pathlib
import re
from collections.abc import Sequence
from typing import NamedTuple

import jinja2

from gpt1_jax.reporting import cells
from gpt1_jax.reporting.plots import Plot, key
from gpt1_jax.reporting.tables import Table

_TITLE = 'GPT-1 in JAX, beside the paper'
_NUMBER = re.compile(r'(≈ )?[\d.,\-]+( [kMG])?( \[[\d., \-]+\])?( so far)?')
_ABSENT = (cells.NOT_RUN, 'not finished', cells.NOTHING)
_SCORES = ('ours', 'score')  # names of the columns of our scores
_LONG = 60  # in characters; longer cells wrap
_NAME = 16  # in characters; longer first cells wrap on a phone


@dataclasses.dataclass(frozen=True)
class Section:
  """A part of the page.

  Attributes:
    name: id of the section.
    title: its heading.
    note: an introductory paragraph.
    tables: in order; tables without rows are omitted.
    plots: in order.
    samples: (run, text) of text samples, shown verbatim.
    explanations: paragraphs that follow the tables.
  """

  name: str
  title: str
  note: str = ''
  tables: Sequence[Table] = ()
  plots: Sequence[Plot] = ()
  samples: Sequence[tuple[str, str]] = ()
  explanations: Sequence[str] = ()

  @property
  def filled(self) -> bool:
    """True if the section has something to show."""
    tables = any(table.rows or table.folded for table in self.tables)
    return tables or bool(self.plots or self.samples)

  @property
  def folded(self) -> bool:
    """True if no row of the section has a run."""
    tables = any(table.rows for table in self.tables)
    return self.filled and not (tables or self.plots or self.samples)


@dataclasses.dataclass(frozen=True)
class Report:
  """The content of the page.

  Attributes:
    sections: in order, with distinct names.
    footer: counts the runs and names the code's version.
  """

  sections: Sequence[Section]
  footer: str


class _Cell(NamedTuple):
  text: str
  style: str  # CSS classes


def html(report: Report) -> str:
  """Renders report.html."""
  environment = jinja2.Environment(
    loader=jinja2.FileSystemLoader(pathlib.Path(__file__).parent),
    autoescape=True,
    trim_blocks=True,
    undefined=jinja2.StrictUndefined,
  )
  template = environment.get_template('page.html')
  return _encodable(
    template.render(
      report=report, title=_TITLE, styled=_styled, parts=parts, key=key
    )
  )


def markdown(report: Report) -> str:
  """Renders results.md: tables, without plots, samples and folded sections."""
  out = [f'# {_TITLE}', '']
  for section in report.sections:
    if not any(table.rows for table in section.tables):
      continue
    out += [f'## {section.title}', '']
    if section.note:
      out += [section.note, '']
    for table in (part for t in section.tables for part in parts(t)):
      rows = [
        [row.get(name, cells.NOTHING) for name in table.header]
        for row in table.rows
      ]
      lines = (table.header, ['---'] * len(table.header), *rows)
      out += [f'### {table.caption}', '']
      out += [f'| {" | ".join(map(escape_markdown, row))} |' for row in lines]
      out.append('')
    for text in section.explanations:
      out += [text, '']
  return _encodable('\n'.join([*out, escape_markdown(report.footer), '']))


def _encodable(text: str) -> str:
  """Replaces characters that UTF-8 cannot encode, as in some folder names."""
  return text.encode('utf-8', 'replace').decode('utf-8')


def parts(table: Table) -> list[Table]:
  """Splits a table into rows with a run and, if there are any, rows without."""
  folded = f'{table.caption.partition(".")[0]}: not run'
  both = Table(table.caption, table.rows), Table(folded, table.folded)
  return [part for part in both if part.rows]


def escape_markdown(text: str) -> str:
  """Joins the lines of a text and escapes what Markdown would interpret."""
  text = re.sub(r'([\\|*`])', r'\\\1', ' '.join(text.split()))
  text = re.sub(r'\b_|_\b', r'\\_', text)  # harmless within a word
  return text.replace('<', '&lt;').replace('](', ']\\(')


def _styled(table: Table) -> tuple[list[_Cell], list[list[_Cell]]]:
  """Returns the header and the rows of a table with their CSS classes."""
  columns = {
    name: [row.get(name, cells.NOTHING) for row in table.rows]
    for name in table.header
  }
  numeric = {name: _is_numeric(column) for name, column in columns.items()}
  header = [_Cell(name, 'number' * right) for name, right in numeric.items()]
  rows = []
  for number in range(len(table.rows)):
    row = {name: column[number] for name, column in columns.items()}
    out: list[_Cell] = []
    for name, text in row.items():
      absent = text.startswith(_ABSENT)
      ours = name in _SCORES or row.get('of') == 'ours'
      classes = {
        'name': not out and len(text) > _NAME,
        'absent': absent,
        'ours': bool(out) and ours and not absent,
        'number': bool(out) and numeric[name],
        'long': bool(out) and len(text) >= _LONG,
      }
      style = ' '.join(name for name, holds in classes.items() if holds)
      out.append(_Cell(text, style))
    rows.append(out)
  return header, rows


def _is_numeric(column: Sequence[str]) -> bool:
  """Returns True if every non-empty cell of a score column is a number."""
  present = [text for text in column if not text.startswith(_ABSENT)]
  return bool(present) and all(map(_NUMBER.fullmatch, present))
