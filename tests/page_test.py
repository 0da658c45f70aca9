"""Tests the rendered page: complete, self-contained, escaped."""

import html.parser
import re
import warnings
import xml.etree.ElementTree as ET

import pytest

from gpt1_jax.reporting import page, paper, plots, runs as runs_lib, sections
from tests.support import commands, run_folders


class Reader(html.parser.HTMLParser):
  """Parses tables by caption, ids and attributes; checks the nesting."""

  VOID = ('meta', 'link', 'br')

  def __init__(self, text):
    super().__init__()
    self.tables, self.ids, self.open, self.seen = {}, [], [], []
    self.attributes = []
    self._row, self._text = None, None
    self.feed(text)
    self.close()

  def handle_starttag(self, tag, attrs):
    attrs = dict(attrs)
    self.seen.append(tag)
    self.attributes.append((tag, attrs))
    if 'id' in attrs:
      self.ids.append(attrs['id'])
    if tag not in self.VOID:
      self.open.append(tag)
    if tag in ('caption', 'th', 'td'):
      self._text = ''
    if tag == 'tr':
      self._row = []
    if tag == 'th':
      assert attrs['scope'] in ('col', 'row')

  def handle_startendtag(self, tag, attrs):
    self.handle_starttag(tag, attrs)
    self.handle_endtag(tag)

  def handle_data(self, data):
    if self._text is not None:
      self._text += data

  def handle_endtag(self, tag):
    assert self.open.pop() == tag
    if tag == 'caption':
      self.tables[self._text] = []
    if tag in ('th', 'td'):
      self._row.append(self._text)
    if tag == 'tr':
      list(self.tables.values())[-1].append(self._row)
    if tag in ('caption', 'th', 'td'):
      self._text = None


def read_markdown(text):
  """Returns tables by heading, with escapes undone."""
  tables, name = {}, None
  for line in text.splitlines():
    if line.startswith('### '):
      name = line.removeprefix('### ')
    elif line.startswith('| ') and not line.startswith('| ---'):
      cells = re.split(r'(?<!\\)\|', line)[1:-1]
      cells = [
        re.sub(r'\\(.)', r'\1', c.strip()).replace('&lt;', '<') for c in cells
      ]
      tables.setdefault(name, []).append(cells)
  return tables


def in_folded_section(caption):
  """Returns True for a table of a section in which nothing was run."""
  return caption.startswith(('Table 2', 'Table 3'))


@pytest.fixture(scope='module')
def report(tmp_path_factory):
  top = run_folders.everything(tmp_path_factory.mktemp('page'))
  return sections.build(runs_lib.find([str(top)]))


@pytest.fixture(scope='module')
def text(report):
  return page.html(report)


def test_markdown_and_page_hold_the_same_tables(report, text):
  found = Reader(text).tables
  absent = [caption for caption in found if in_folded_section(caption)]
  assert len(absent) == 2
  shown = {name: rows for name, rows in found.items() if name not in absent}
  assert shown == read_markdown(page.markdown(report))
  assert any('a & <b>$x' in row for row in found['All runs of fine-tuning'][1])
  assert len(found) == 12


def test_runs_come_first_then_the_paper(report, text):
  assert [section.name for section in report.sections] == [
    'runs', 'gains', 'pretraining', 'fine-tuning', 'samples', 'table-4',
    'table-5', 'figure-2-left', 'figure-2-right', 'not-run',
  ]  # fmt: skip
  found = Reader(text).tables
  for caption, rows in found.items():
    score = 1 if caption == 'Our runs in Table 5' else 0
    scores = ('ours', 'score', 'of', 'perplexity per token')
    assert rows[0][score + 1] in scores  # at the left, so that a phone shows it
    folded = caption.endswith(': not run')
    if 'ablations' not in caption:  # its rows also hold some tasks of many
      assert {'not run' in row for row in rows[1:]} == {folded}
    alone = folded and not in_folded_section(caption)
    assert text.count(f'<summary>{caption}</summary>') == alone
  assert found['Pretraining: perplexity on held-out text'][-1][0] == (
    'GPT-1 (paper)'
  )


def test_markdown_is_escaped():
  text = page.escape_markdown('a_b _c_ *d* [e](f) <g>\n`h` | \\')
  assert text == r'a_b \_c\_ \*d\* [e]\(f) &lt;g> \`h\` \| \\'


def test_page_shows_every_score_of_the_paper(text):
  tables = Reader(text).tables.values()
  cells = {cell for rows in tables for row in rows for cell in row}
  for column in (*paper.TABLE_2, *paper.TABLE_3, *paper.TABLE_4):
    assert f'{column.score:.1f}' in cells
    assert f'{column.earlier:.1f}, {column.earlier_by}' in cells
  for average, row in paper.TABLE_5.values():
    assert {f'{x:.1f}' for x in (average, *row)} <= cells


def test_page_is_self_contained_and_escaped(text):
  reader = Reader(text)
  assert not reader.open
  assert 'script' not in reader.seen
  assert '&lt;script&gt;alert(1)&lt;/script&gt;' in text
  assert 'a &amp; &lt;b&gt;$x' in text
  for tag, attributes in reader.attributes:
    for name, value in attributes.items():
      assert name != 'src'
      assert not name.startswith('on')
      if name in ('href', 'xlink:href'):
        assert value.startswith(('#', 'data:,')), (tag, value)
  # XML namespaces only, nothing to fetch.
  assert set(re.findall(r'https?://[\w./]+', text)) <= {
    'http://www.w3.org/1999/xlink',
    'http://www.w3.org/2000/svg',
  }
  assert '@import' not in text
  assert 'url(http' not in text
  assert len(text) < 400_000


def test_ids_are_unique_and_links_resolve(text):
  reader = Reader(text)
  assert len(reader.ids) == len(set(reader.ids))
  for _, attributes in reader.attributes:
    target = attributes.get('href', '')
    if target.startswith('#'):
      assert target[1:] in reader.ids
    for value in attributes.values():
      for name in re.findall(r'url\(#([^)]*)\)', value or ''):
        assert name in reader.ids


def test_plots_use_the_colours_of_the_page(report):
  drawn = [plot for section in report.sections for plot in section.plots]
  assert [plot.title for plot in drawn] == [
    'Main score of each task',
    'Pretraining: loss',
    'cola: loss of task and LM',
    'rte: loss of task and LM',
    'Dev score over layers transferred',
    'Zero-shot over pretraining',
  ]
  for plot in drawn:
    ET.fromstring(plot.svg)  # well-formed
    assert not re.search('[:"] ?#[0-9a-f]{3,6}', plot.svg)
    assert 'currentColor' in plot.svg
    for line in plot.lines:
      assert f'var(--line-{line.color % plots.COLORS})' in plot.svg


def test_long_lines_are_thinned_and_keep_the_last_point():
  points = [(float(x), float(x % 7)) for x in range(100_001)]
  svg = plots.draw('p', [plots.Line('a', points, 0)], plots.Scales('x', 'y'))
  assert len(svg) < 40_000
  assert plots.thin(points)[-1] == points[-1]
  assert len(plots.thin(points)) <= 501


def test_plot_for_a_file_has_fixed_colours_and_a_legend():
  lines = [plots.Line(name, [(1, 2), (2, 1)], i) for i, name in enumerate('ab')]
  svg = plots.draw('p', lines, plots.Scales('x', 'y'), file=True)
  assert ET.fromstring(svg).tag == '{http://www.w3.org/2000/svg}svg'
  assert 'var(' not in svg
  assert 'currentColor' not in svg
  assert '#00001' not in svg
  assert '>b</text>' in svg


@pytest.mark.parametrize(
  ('name', 'shown'),
  [
    ('\u5c0f\u8bf4', '\u5c0f\u8bf4'),  # no font of matplotlib has these
    ('$x_{y$', '$x_{y$'),  # not a formula
    ('_a', '\N{ZERO WIDTH SPACE}_a'),
    ('a\x07<b', 'a\ufffd<b'),
  ],
)
def test_plot_for_a_file_shows_any_name(name, shown):
  lines = [plots.Line(name, [(1, 2), (2, 1)], 0)]
  with warnings.catch_warnings():
    warnings.simplefilter('error')
    svg = plots.draw('p', lines, plots.Scales('x', 'y'), file=True)
  texts = ET.fromstring(svg).iter('{http://www.w3.org/2000/svg}text')
  assert [text.text for text in texts][-1] == shown


def test_a_file_grows_with_its_legend():
  """A legend that leaves the axes no room is a warning, here an error."""
  heights = []
  for count in (2, 10, 40):
    lines = [plots.Line(f'run {i}', [(1, 2), (2, 1)], i) for i in range(count)]
    svg = plots.draw('p', lines, plots.Scales('x', 'y'), file=True)
    heights.append(float(ET.fromstring(svg).get('height').removesuffix('pt')))
  assert heights[0] == heights[1] < heights[2]


def test_colours_wrap_around():
  lines = [plots.Line(str(i), [(1, i), (2, i)], i) for i in range(11)]
  svg = plots.draw('p', lines, plots.Scales('x', 'y'))
  assert svg.count('stroke: var(--line-0)') == 2
  assert svg.count('stroke: var(--line-7)') == 1
  assert 'var(--line-2)' in plots.key(lines[10])


def test_a_page_of_one_unfinished_run(tmp_path):
  """It explains what was run, and folds all of the paper's scores away."""
  name = 'only\udcff'  # a name that is no UTF-8
  folder = run_folders.pretraining(tmp_path / name, finished=False)
  (folder / 'samples.txt').write_text('<once> upon')
  report = sections.build(runs_lib.find([str(tmp_path)]))
  names = [section.name for section in report.sections]
  assert names == ['runs', 'pretraining', 'samples', 'not-run']
  (overview, *_) = report.sections
  assert overview.explanations[0].startswith('Pretraining: a network reads')
  assert len(overview.explanations) == 1
  text = page.html(report)
  assert 'only?' in text.encode('utf-8').decode('utf-8')
  assert '| only? |' in page.markdown(report)
  assert text.count('<details>') == 1
  assert 'not run' not in page.markdown(report)
  assert '<pre>&lt;once&gt; upon</pre>' in text
  assert 'not finished: update 1,499 of 1,500' in text


def test_report_command(tmp_path):
  top = run_folders.everything(tmp_path)
  said = commands.succeed(
    'report', f'--runs={top}', f'--output={tmp_path}/out'
  ).splitlines()
  assert len(said) == 9
  assert said[1] == 'all/cola: cola, full, 3 seeds, finished'
  assert said[-1].startswith(
    f'{tmp_path}/out/report.html and results.md: 8 run'
  )
  text = (tmp_path / 'out' / 'report.html').read_text(encoding='utf-8')
  again = (tmp_path / 'out' / 'results.md').read_text(encoding='utf-8')
  drawn = (tmp_path / 'out' / 'pretraining.svg').read_text(encoding='utf-8')
  assert 'loss (nats)' in ''.join(ET.fromstring(drawn).itertext())
  drawn = (tmp_path / 'out' / 'tasks.svg').read_text(encoding='utf-8')
  assert 'CoLA' in ''.join(ET.fromstring(drawn).itertext())
  found = Reader(text).tables
  assert read_markdown(again) == {
    name: rows for name, rows in found.items() if not in_folded_section(name)
  }
  assert 'no such folder' in commands.fail(
    'report', f'--runs={tmp_path}/absent', f'--output={tmp_path}/out'
  )
  (tmp_path / 'results.json').touch()  # finetune wrote results.md beside it
  assert 'holds results.md of finetune' in commands.fail(
    'report', f'--runs={top}', f'--output={tmp_path}'
  )
