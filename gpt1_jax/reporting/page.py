"""Tables, plots and text → report.html and results.md.

Both are made of the same sections. The page needs no network and no script;
everything that comes from a run is escaped.
"""

import dataclasses
import html
import pathlib
import re
from collections.abc import Sequence

from gpt1_jax.reporting import cells, plots as plots_lib, tables as tables_lib

_CSS = pathlib.Path(__file__).with_name('page.css')
_TITLE = 'GPT-1 in JAX, beside the paper'
_NUMBER = re.compile(r'(≈ )?[\d.,\-]+( [kMG])?( \[[\d., \-]+\])?')
_ABSENT = (cells.NOT_RUN, 'not finished', cells.NOTHING)
_LONG = 60  # characters from which a cell may break into lines
_NAME = 16  # beyond, the first cell of a row does so on a phone


@dataclasses.dataclass(frozen=True)
class Plot:
  """A drawing with its legend.

  Attributes:
    title: what it shows.
    svg: from `plots.draw`.
    lines: for the legend.
  """

  title: str
  svg: str
  lines: Sequence[plots_lib.Line]


@dataclasses.dataclass(frozen=True)
class Section:
  """A part of the page.

  Attributes:
    name: id of its heading.
    title: its heading.
    note: a paragraph of ours.
    tables: in order; one without rows says that nothing was run.
    plots: in order.
    text: what a network wrote, as it is.
  """

  name: str
  title: str
  note: str = ''
  tables: Sequence[tables_lib.Table] = ()
  plots: Sequence[Plot] = ()
  text: str = ''


def markdown(
  facts: Sequence[str], notes: Sequence[str], sections: Sequence[Section]
) -> str:
  """results.md: all but the plots and samples."""
  out = [f'# {_TITLE}', '', *(f'- {_cell(fact)}' for fact in facts), '']
  for note in notes:
    out += [note, '']
  for section in sections:
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
      lines = (table.header, ['---'] * len(table.header), *table.rows)
      out += [f'| {" | ".join(map(_cell, row))} |' for row in lines]
      out.append('')
  return '\n'.join(out)


def page(
  facts: Sequence[str], notes: Sequence[str], sections: Sequence[Section]
) -> str:
  """report.html, whole.

  Args:
    facts: lines of the header: what was run on what.
    notes: paragraphs of ours: how to read it.
    sections: in order, their names unlike.
  """
  e = html.escape
  links = ''.join(
    f'<li><a href="#{s.name}">{e(s.title)}</a></li>' for s in sections
  )
  lines = ''.join(f'<li>{e(fact)}</li>\n' for fact in facts)
  reading = ''.join(f'<p class="note">{e(note)}</p>\n' for note in notes)
  return (
    '<!doctype html>\n<html lang="en">\n<head>\n<meta charset="utf-8">\n'
    '<meta name="viewport" content="width=device-width,initial-scale=1">\n'
    f'<link rel="icon" href="data:,">\n<title>{e(_TITLE)}</title>\n'
    f'<style>\n{_CSS.read_text(encoding="utf-8")}</style>\n</head>\n<body>\n'
    f'<header>\n<h1>{e(_TITLE)}</h1>\n<ul class="facts">\n{lines}</ul>\n'
    f'{reading}</header>\n'
    f'<nav aria-label="Contents"><ul>{links}</ul></nav>\n<main>\n'
    + ''.join(map(_section, sections))
    + '</main>\n</body>\n</html>\n'
  )


def _section(section: Section) -> str:
  e = html.escape
  name = f'{section.name}-title'
  parts = [
    f'<section id="{section.name}" aria-labelledby="{name}">\n'
    f'<h2 id="{name}">{e(section.title)}</h2>\n'
  ]
  if section.note:
    parts.append(f'<p class="note">{e(section.note)}</p>\n')
  figures = ''.join(map(_plot, section.plots))
  if len(section.plots) > 1:
    figures = f'<div class="curves">{figures}</div>'
  parts += [figures, *map(_table, section.tables)]
  if section.text:
    parts.append(f'<pre>{e(section.text)}</pre>\n')
  return ''.join([*parts, '</section>\n'])


def _table(table: tables_lib.Table) -> str:
  """A box that scrolls by itself, by keyboard as well."""
  e = html.escape
  if not table.rows:
    return (
      f'<p>{e(table.caption)}: <span class="absent">{cells.NOT_RUN}</span></p>'
    )
  right = [_numeric(column) for column in zip(*table.rows, strict=True)]
  head = ''.join(
    f'<th scope="col"{_class(number=right[i])}>{e(name)}</th>'
    for i, name in enumerate(table.header)
  )
  rows = []
  for row in table.rows:
    line = ''.join(
      f'<td{_class(**_look(cell, i == table.ours or "ours" in row, right[i]))}>'
      f'{e(cell)}</td>'
      for i, cell in enumerate(row)
      if i
    )
    name = _class(name=len(row[0]) > _NAME)
    rows.append(f'<tr><th scope="row"{name}>{e(row[0])}</th>{line}</tr>\n')
  return (
    f'<div class="scroll" role="region" tabindex="0" '
    f'aria-label="{e(table.caption)}"><table>\n'
    f'<caption><span>{e(table.caption)}</span></caption>\n<thead><tr>{head}</tr></thead>\n'
    f'<tbody>\n{"".join(rows)}</tbody>\n</table></div>\n'
  )


def _numeric(column: Sequence[str]) -> bool:
  """Whether all that is there is numbers."""
  there = [text for text in column if not text.startswith(_ABSENT)]
  return bool(there) and all(map(_NUMBER.fullmatch, there))


def _look(text: str, ours: bool, number: bool) -> dict[str, bool]:
  absent = text.startswith(_ABSENT)
  return {
    'absent': absent,
    'ours': ours and not absent,
    'number': number,
    'long': len(text) >= _LONG,
  }


def _class(**names: bool) -> str:
  """The attribute with the names that hold."""
  found = ' '.join(name for name, holds in names.items() if holds)
  return f' class="{found}"' if found else ''


def _plot(plot: Plot) -> str:
  e = html.escape
  title = e(plot.title)
  svg = plot.svg.replace('<svg ', f'<svg role="img" aria-label="{title}" ', 1)
  legend = ''.join(
    f'<li>{plots_lib.key(line)}<span>{e(line.label)}</span></li>'
    for line in plot.lines
    if line.label
  )
  return (
    f'<figure><figcaption>{title}</figcaption>\n{svg}\n'
    f'<ul class="legend">{legend}</ul></figure>\n'
  )


def _cell(text: str) -> str:
  """Text that Markdown leaves as it is, on one line."""
  text = re.sub(r'([\\|*`])', r'\\\1', ' '.join(text.split()))
  text = re.sub(r'\b_|_\b', r'\\_', text)  # within a word it is no mark
  return text.replace('<', '&lt;').replace('](', ']\\(')
