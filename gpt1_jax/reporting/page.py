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
_NUMBER = re.compile(r'(≈ )?[\d.,\-]+( [kMG])?( \[[\d., \-]+\])?')
_ABSENT = (cells.NOT_RUN, 'not finished', cells.NOTHING)
_LONG = 60  # characters; longer cells wrap
_NAME = 16  # characters; longer first cells wrap on a phone


@dataclasses.dataclass(frozen=True)
class Section:
  """A part of the page.

  Attributes:
    name: id of the section.
    title: its heading.
    note: an introductory paragraph.
    tables: in order; one without rows is shown as 'not run'.
    plots: in order.
    text: a text sample, shown verbatim.
  """

  name: str
  title: str
  note: str = ''
  tables: Sequence[Table] = ()
  plots: Sequence[Plot] = ()
  text: str = ''


@dataclasses.dataclass(frozen=True)
class Report:
  """The content of the page.

  Attributes:
    facts: lines of the header that name the runs and commits.
    notes: paragraphs that explain how to read the tables.
    sections: in order, each with a name of its own.
  """

  facts: Sequence[str]
  notes: Sequence[str]
  sections: Sequence[Section]


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
  return environment.get_template('page.html').render(
    report=report,
    title=_TITLE,
    not_run=cells.NOT_RUN,
    styled=_styled,
    key=key,
  )


def markdown(report: Report) -> str:
  """Renders results.md: the tables, without plots and samples."""
  facts = [f'- {escape_markdown(fact)}' for fact in report.facts]
  out = [f'# {_TITLE}', '', *facts, '']
  for note in report.notes:
    out += [note, '']
  for section in report.sections:
    if not section.tables:
      continue
    out += [f'## {section.title}', '']
    if section.note:
      out += [section.note, '']
    for table in section.tables:
      out += [f'### {table.caption}', '']
      if not table.rows:
        out += [cells.NOT_RUN, '']
        continue
      rows = (table.header, ['---'] * len(table.header), *table.rows)
      out += [f'| {" | ".join(map(escape_markdown, row))} |' for row in rows]
      out.append('')
  return '\n'.join(out)


def escape_markdown(text: str) -> str:
  """Joins the lines of a text and escapes what Markdown would interpret."""
  text = re.sub(r'([\\|*`])', r'\\\1', ' '.join(text.split()))
  text = re.sub(r'\b_|_\b', r'\\_', text)  # harmless within a word
  return text.replace('<', '&lt;').replace('](', ']\\(')


def _styled(table: Table) -> tuple[list[_Cell], list[list[_Cell]]]:
  """Returns the header and the rows of a table with their CSS classes."""
  numeric = [_is_numeric(column) for column in zip(*table.rows, strict=True)]
  header = [
    _Cell(text, 'number' if right else '')
    for text, right in zip(table.header, numeric, strict=True)
  ]
  rows = []
  for first, *rest in table.rows:
    row = [_Cell(first, 'name' if len(first) > _NAME else '')]
    for column, text in enumerate(rest, 1):
      absent = text.startswith(_ABSENT)
      ours = column == table.ours or 'ours' in (first, *rest)
      classes = {
        'absent': absent,
        'ours': ours and not absent,
        'number': numeric[column],
        'long': len(text) >= _LONG,
      }
      style = ' '.join(name for name, holds in classes.items() if holds)
      row.append(_Cell(text, style))
    rows.append(row)
  return header, rows


def _is_numeric(column: Sequence[str]) -> bool:
  """Returns True if all cells that hold a score hold a number."""
  present = [text for text in column if not text.startswith(_ABSENT)]
  return bool(present) and all(map(_NUMBER.fullmatch, present))
