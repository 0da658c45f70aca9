"""Draws lines as inline SVG whose colours the page sets, light or dark.

matplotlib draws in placeholder colours: text and axes become the page's text
colour, lines its `--line-N`. The legend is HTML, not part of the drawing, so
long run names wrap on a phone and `$` in a name is never read as mathematics.
"""

import dataclasses
import io
import re
import warnings
from collections.abc import Sequence

import matplotlib
from matplotlib import colors, figure, ticker
from matplotlib.axes import Axes

COLORS = 8  # --line-0 to --line-7 in page.css
_TEXT = '#0000ff'
_LINE = '#00001%x'  # not black, which SVG omits as the default
_SIZE = (4.7, 3.1)  # inches: at 360 px a point of text is about a pixel
_ROW = 0.2  # inches, height of a row of a legend
_POINTS = 500  # maximum per line
_CONTROL = re.compile(r'[\x00-\x1f\x7f\ufffe\uffff]')  # XML has none of these
_MARKS = {
  'o': 'M11 5a3 3 0 1 0 6 0a3 3 0 1 0-6 0z',
  's': 'M11 2h6v6h-6z',
  '^': 'M14 1l4 7h-8z',
  'D': 'M14 1l4 4-4 4-4-4z',
}

Points = Sequence[tuple[float, float]]


@dataclasses.dataclass(frozen=True)
class Line:
  """A line of a plot.

  Attributes:
    label: its text in the legend; '' leaves it out.
    points: (x, y), in order.
    color: index of its colour and mark, modulo `COLORS`.
    ends: (minimum, maximum) over seeds at each point.
    joined: False leaves the points by themselves.
  """

  label: str
  points: Points
  color: int
  ends: Points = ()
  marks: bool = False
  dashed: bool = False
  joined: bool = True

  @property
  def mark(self) -> str:
    return tuple(_MARKS)[self.color % len(_MARKS)] if self.marks else ''


@dataclasses.dataclass(frozen=True)
class Scales:
  """The axes of a plot.

  Attributes:
    levels: (y, text) of horizontal lines; the text of the first is below it.
    names: of x = 0, 1, 2, ..., in place of these numbers.
  """

  x: str
  y: str
  log: bool = False
  integer: bool = False
  levels: Sequence[tuple[float, str]] = ()
  names: Sequence[str] = ()


@dataclasses.dataclass(frozen=True)
class Plot:
  """A drawing with its title and the lines of its legend."""

  title: str
  svg: str
  lines: Sequence[Line]


def draw(
  name: str, lines: Sequence[Line], scales: Scales, *, file: bool = False
) -> str:
  """Returns an <svg> element for the page, or for a separate file.

  Args:
    name: prefix of the element's ids, unique on the page.
    file: draws for a file: on white, with fixed colours and a legend.
  """
  with warnings.catch_warnings():
    # Text stays text, in the reader's fonts: matplotlib's may lack a glyph.
    warnings.filterwarnings('ignore', 'Glyph .* missing from font')
    with matplotlib.rc_context(
      {
        'svg.hashsalt': name,
        'svg.fonttype': 'none',
        'text.parse_math': False,
      }
    ):
      svg = _drawn(lines, scales, file)
  return _with_fixed_colors(svg) if file else _inline(svg, name)


def _drawn(lines: Sequence[Line], scales: Scales, file: bool) -> str:
  """Returns matplotlib's <svg> element, in placeholder colours."""
  drawing = figure.Figure(figsize=_SIZE, layout='constrained')
  axes = drawing.subplots()
  _set_scales(axes, scales)
  for line in lines:
    _add(axes, line)
  axes.tick_params(colors=_TEXT, which='both')
  axes.spines[['top', 'right']].set_visible(False)
  axes.spines[['left', 'bottom']].set_color(_TEXT)
  axes.grid(color=_TEXT, alpha=0.15)
  if file and lines:
    drawing.legend(loc='outside lower center', ncols=2, frameon=False)
    rows = (len(axes.get_legend_handles_labels()[0]) + 1) // 2
    # Five rows fit below the axes.
    drawing.set_figheight(_SIZE[1] + _ROW * max(0, rows - 5))
  for patch in (drawing.patch, axes.patch):
    patch.set_visible(file)
  out = io.StringIO()
  drawing.savefig(out, format='svg', metadata={'Date': None})
  svg = out.getvalue()
  return svg[svg.index('<svg') :]


def key(line: Line) -> str:
  """Returns an <svg> element that shows the line in the legend."""
  dashes = ' stroke-dasharray="5 3"' if line.dashed else ''
  path = f'<path d="M0 5h28" stroke-width="2"{dashes}/>' if line.joined else ''
  mark = f'<path d="{_MARKS[line.mark]}"/>' if line.mark else ''
  color = f'var(--line-{line.color % COLORS})'
  return (
    f'<svg class="key" viewBox="0 0 28 10" aria-hidden="true" fill="{color}" '
    f'stroke="{color}">{path}{mark}</svg>'
  )


def thin(points: Points) -> Points:
  """Returns at most 501 evenly spaced points that include the last."""
  kept = list(points[:: max(1, -(-len(points) // _POINTS))])
  return kept if kept[-1] == points[-1] else [*kept, points[-1]]


def _set_scales(axes: Axes, scales: Scales) -> None:
  axes.set_xlabel(scales.x, color=_TEXT)
  axes.set_ylabel(scales.y, color=_TEXT)
  if scales.log:
    axes.set_xscale('log')
    axes.xaxis.set_major_locator(ticker.LogLocator(subs=(1, 2, 5)))
    axes.xaxis.set_major_formatter(ticker.FuncFormatter(_count))
    axes.xaxis.set_minor_locator(ticker.NullLocator())
  elif scales.integer:
    axes.xaxis.set_major_locator(ticker.MaxNLocator(integer=True))
  elif scales.names:
    names = [_CONTROL.sub('\ufffd', name) for name in scales.names]
    axes.set_xticks(range(len(names)), names, rotation=30, ha='right')
    axes.set_xlim(-0.5, len(names) - 0.5)
  if scales.levels:
    axes.margins(y=0.12)
  for number, (y, text) in enumerate(scales.levels):
    axes.axhline(y, color=_TEXT, linewidth=0.8, linestyle=(0, (2, 2)))
    axes.annotate(
      text,
      (0, y),
      xycoords=('axes fraction', 'data'),
      xytext=(3, 3 if number else -3),
      textcoords='offset points',
      va='bottom' if number else 'top',
      color=_TEXT,
      fontsize=9,
    )


def _add(axes: Axes, line: Line) -> None:
  color = _LINE % (line.color % COLORS)
  xs, ys = zip(*thin(line.points), strict=True)
  style = '--' if line.dashed else '-'
  label = _CONTROL.sub('\ufffd', line.label) or None
  if label and label.startswith('_'):  # matplotlib would hide it
    label = f'\N{ZERO WIDTH SPACE}{label}'
  (drawn,) = axes.plot(xs, ys, style, color=color, lw=1.5, label=label)
  drawn.set(marker=line.mark or 'none', markersize=5)
  if not line.joined:
    drawn.set_linestyle('none')
  if line.ends:
    low, high = zip(*line.ends, strict=True)
    axes.vlines([p[0] for p in line.points], low, high, color=color, lw=1)


def _count(value: float, _: int | None) -> str:
  for size, letter in ((1e6, 'M'), (1e3, 'k')):
    if value >= size:
      return f'{value / size:g}{letter}'
  return f'{value:g}'


def _with_fixed_colors(svg: str) -> str:
  """Replaces the placeholder colours by matplotlib's."""
  svg = svg.replace(_TEXT, '#000000')
  for number, color in enumerate(matplotlib.color_sequences['tab10'][:COLORS]):
    svg = svg.replace(_LINE % number, colors.to_hex(color))
  return svg


def _inline(svg: str, name: str) -> str:
  """Replaces colours by the page's, and makes ids unique on the page."""
  for part in ('metadata', 'style'):  # page.css styles all plots
    svg = re.sub(rf'<{part}\b.*?</{part}>', '', svg, flags=re.DOTALL)
  svg = re.sub(r'^<svg [^>]*?(viewBox="[^"]*")[^>]*>', r'<svg \1>', svg)
  svg = re.sub(r'(\bid="|url\(#|href="#)', rf'\g<1>{name}-', svg)
  svg = svg.replace('xlink:href', 'href').replace(_TEXT, 'currentColor')
  for number in range(COLORS):
    svg = svg.replace(_LINE % number, f'var(--line-{number})')
  return svg.strip()
