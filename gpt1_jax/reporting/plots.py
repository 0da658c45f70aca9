"""Lines → inline SVG that takes its colours from the page, light or dark.

matplotlib draws with stand-ins for colours; text and axes become the page's
text colour, lines its `--line-N`. The legend is text of the page, not of the
drawing: names of runs wrap on a phone, and are never read as mathematics.
"""

import dataclasses
import io
import re
from collections.abc import Sequence

import matplotlib
from matplotlib import colors, figure, ticker

COLORS = 8  # --line-0 to --line-7 in page.css
_TEXT = '#0000ff'
_LINE = '#00001%x'  # not black, which SVG takes for granted
_SIZE = (4.7, 3.1)  # inches: at 360 px a point of text is about a pixel
_POINTS = 500  # of a line, at most
_MARKS = {
  'o': 'M11 5a3 3 0 1 0 6 0a3 3 0 1 0-6 0z',
  's': 'M11 2h6v6h-6z',
  '^': 'M14 1l4 7h-8z',
  'D': 'M14 1l4 4-4 4-4-4z',
}


@dataclasses.dataclass(frozen=True)
class Line:
  """A line of a plot.

  Attributes:
    label: for the legend; '' leaves it out.
    points: (x, y), in order.
    color: number of its colour and mark; beyond `COLORS` they come again.
    ends: (least, most) at each point, over seeds.
    marks: whether each point has a mark.
    dashed: whether it is.
  """

  label: str
  points: Sequence[tuple[float, float]]
  color: int
  ends: Sequence[tuple[float, float]] = ()
  marks: bool = False
  dashed: bool = False

  @property
  def mark(self) -> str:
    return tuple(_MARKS)[self.color % len(_MARKS)] if self.marks else ''


def draw(
  name: str,
  lines: Sequence[Line],
  *,
  x: str,
  y: str,
  log: bool = False,
  whole: bool = False,
  levels: Sequence[tuple[float, str]] = (),
  file: bool = False,
) -> str:
  """An <svg> element, to stand in the page or in a file of its own.

  Args:
    name: of the plot, unlike that of any other on the page: begins its ids.
    lines: to draw.
    x, y: labels of the axes.
    log: whether x is logarithmic.
    whole: whether x has whole numbers alone.
    levels: (y, text) of horizontal lines; the first has its text below.
    file: whether it stands alone: on white, with colours and a legend.
  """
  drawing = figure.Figure(figsize=_SIZE, layout='constrained')
  axes = drawing.subplots()
  if levels:
    axes.margins(y=0.12)
    _add_levels(axes, levels)
  for line in lines:
    _add(axes, line)
  axes.set_xlabel(x, color=_TEXT)
  axes.set_ylabel(y, color=_TEXT)
  if log:
    axes.set_xscale('log')
    axes.xaxis.set_major_locator(ticker.LogLocator(subs=(1, 2, 5)))
    axes.xaxis.set_major_formatter(ticker.FuncFormatter(_count))
    axes.xaxis.set_minor_locator(ticker.NullLocator())
  elif whole:
    axes.xaxis.set_major_locator(ticker.MaxNLocator(integer=True))
  axes.tick_params(colors=_TEXT, which='both')
  axes.spines[['top', 'right']].set_visible(False)
  axes.spines[['left', 'bottom']].set_color(_TEXT)
  axes.grid(color=_TEXT, alpha=0.15)
  if file and lines:
    drawing.legend(loc='outside lower center', ncols=2, frameon=False)
  for patch in (drawing.patch, axes.patch):
    patch.set_visible(file)
  out = io.StringIO()
  with matplotlib.rc_context({'svg.hashsalt': name, 'svg.fonttype': 'none'}):
    drawing.savefig(out, format='svg')
  return (_alone if file else _inline)(out.getvalue(), name)


def key(line: Line) -> str:
  """An <svg> element: the line's sample for the legend."""
  dashes = ' stroke-dasharray="5 3"' if line.dashed else ''
  mark = f'<path d="{_MARKS[line.mark]}"/>' if line.mark else ''
  color = f'var(--line-{line.color % COLORS})'
  return (
    f'<svg class="key" viewBox="0 0 28 10" aria-hidden="true" fill="{color}" '
    f'stroke="{color}"><path d="M0 5h28" stroke-width="2"{dashes}/>{mark}</svg>'
  )


def _add_levels(axes, levels: Sequence[tuple[float, str]]) -> None:
  for number, (at, text) in enumerate(levels):
    axes.axhline(at, color=_TEXT, linewidth=0.8, linestyle=(0, (2, 2)))
    axes.annotate(
      text,
      (0, at),
      xycoords=('axes fraction', 'data'),
      xytext=(3, 3 if number else -3),
      textcoords='offset points',
      va='bottom' if number else 'top',
      color=_TEXT,
      fontsize=9,
    )


def _add(axes, line: Line) -> None:
  color = _LINE % (line.color % COLORS)
  xs, ys = zip(*_thinned(line.points), strict=True)
  style = '--' if line.dashed else '-'
  label = line.label or None
  (drawn,) = axes.plot(xs, ys, style, color=color, lw=1.5, label=label)
  drawn.set(marker=line.mark or 'none', markersize=5)
  if line.ends:
    low, high = zip(*line.ends, strict=True)
    axes.vlines([p[0] for p in line.points], low, high, color=color, lw=1)


def _thinned(
  points: Sequence[tuple[float, float]],
) -> list[tuple[float, float]]:
  """As many as are drawn, the last among them."""
  kept = list(points[:: max(1, -(-len(points) // _POINTS))])
  return kept if kept[-1] == points[-1] else [*kept, points[-1]]


def _count(value: float, _: int) -> str:
  return f'{value / 1000:g}k' if value >= 1000 else f'{value:g}'


def _alone(svg: str, name: str) -> str:
  """Of a file: the same with the colours of matplotlib for stand-ins."""
  del name
  svg = svg[svg.index('<svg') :].replace(_TEXT, '#000000')
  for number, color in enumerate(matplotlib.color_sequences['tab10'][:COLORS]):
    svg = svg.replace(_LINE % number, colors.to_hex(color))
  return svg


def _inline(svg: str, name: str) -> str:
  """Of a file: the element, fit to stand among others on a page."""
  svg = svg[svg.index('<svg') :]
  for part in ('metadata', 'style'):  # the style is one for the whole page
    svg = re.sub(rf'<{part}\b.*?</{part}>', '', svg, flags=re.DOTALL)
  svg = re.sub(r'^<svg [^>]*?(viewBox="[^"]*")[^>]*>', r'<svg \1>', svg)
  svg = re.sub(r'(\bid="|url\(#|href="#)', rf'\g<1>{name}-', svg)
  svg = svg.replace('xlink:href', 'href').replace(_TEXT, 'currentColor')
  for number in range(COLORS):
    svg = svg.replace(_LINE % number, f'var(--line-{number})')
  return svg.strip()
