"""Tests the report in Chromium."""

import re

import pytest

from gpt1_jax.reporting import page, runs as runs_lib, sections
from tests.support import browsers, run_folders

pytest.importorskip(
  'playwright.sync_api', reason="pip install 'gpt1_jax[browser]'"
)
pytestmark = browsers.MARKS
SIZES = {'phone': (360, 740), 'desktop': (1280, 900)}

# Every text with its colour and the colour behind it.
TEXTS = r"""() => {
  const found = [];
  const walk = document.createTreeWalker(document.body, NodeFilter.SHOW_TEXT);
  for (let node = walk.nextNode(); node; node = walk.nextNode()) {
    if (!node.data.trim()) continue;
    const element = node.parentElement;
    const style = getComputedStyle(element);
    const drawn = element.closest('svg');
    let behind = element;
    while (behind && /, 0\)$|transparent/.test(
      getComputedStyle(behind).backgroundColor)) behind = behind.parentElement;
    found.push({
      text: node.data.trim().slice(0, 40),
      color: drawn ? style.fill : style.color,
      behind: behind && getComputedStyle(behind).backgroundColor,
    });
  }
  return found;
}"""
# Lines of plots and legends with the colour of the page.
STROKES = r"""() => [...document.querySelectorAll('figure svg path')]
  .map(path => getComputedStyle(path))
  .filter(style => style.stroke != 'none' && +style.strokeOpacity == 1)
  .map(style => ({text: 'line', color: style.stroke,
    behind: getComputedStyle(document.body).backgroundColor}))"""


def luminance(color):
  """Returns the relative luminance of rgb(...) (WCAG 2)."""
  channels = [int(x) / 255 for x in re.findall(r'\d+', color)[:3]]
  linear = [
    c / 12.92 if c <= 0.03928 else ((c + 0.055) / 1.055) ** 2.4
    for c in channels
  ]
  return 0.2126 * linear[0] + 0.7152 * linear[1] + 0.0722 * linear[2]


def contrast(found):
  light, dark = sorted(map(luminance, (found['color'], found['behind'])))[::-1]
  return (light + 0.05) / (dark + 0.05)


@pytest.fixture(scope='module')
def report(tmp_path_factory):
  """Writes report.html of one run of each kind."""
  top = tmp_path_factory.mktemp('report')
  runs = runs_lib.find([str(run_folders.everything(top))])
  path = top / 'report.html'
  path.write_text(page.html(sections.build(runs)), encoding='utf-8')
  return path


@pytest.fixture(scope='module')
def browser():
  with browsers.chromium() as started:
    yield started


@pytest.fixture(params=[(s, c) for s in SIZES for c in ('light', 'dark')])
def opened(request, report, browser):
  """Opens the page; checks that it logs and fetches nothing."""
  size, scheme = request.param
  width, height = SIZES[size]
  context = browser.new_context(
    viewport={'width': width, 'height': height}, color_scheme=scheme
  )
  tab = context.new_page()
  said, asked = [], []
  tab.on('console', lambda message: said.append(message.text))
  tab.on('pageerror', lambda error: said.append(str(error)))
  tab.on('request', lambda asking: asked.append(asking.url))
  tab.goto(report.as_uri())
  tab.wait_for_load_state('load')
  yield tab
  assert said == []
  assert asked == [report.as_uri()]
  context.close()


def unfold(tab):
  tab.evaluate("document.querySelectorAll('details').forEach(d => d.open = 1)")


def test_scores_are_on_the_first_screen(opened):
  width, height = opened.viewport_size.values()
  cells = opened.locator('#runs td.ours').all()
  assert [cell.inner_text() for cell in cells][:2] == ['12.34', '12.34']
  box = cells[2].bounding_box()
  assert box['x'] + box['width'] <= width
  assert box['y'] + box['height'] <= height
  assert opened.locator('table:visible').count() == 8


def test_tables_and_plots_are_visible(opened):
  assert opened.locator('details').count() == 3
  unfold(opened)
  assert opened.locator('table').count() == 12
  assert opened.locator('figure > svg[role=img]').count() == 6
  for kind in ('table', 'figure > svg', 'h2', 'nav a', '.legend li'):
    for element in opened.locator(kind).all():
      assert element.is_visible()
      box = element.bounding_box()
      assert min(box['width'], box['height']) > 10
  assert opened.locator('section').count() == opened.locator('nav a').count()
  assert opened.get_by_text('not run', exact=True).count() > 20
  assert opened.get_by_role('rowheader', name='a & <b>$x').count() == 2


def test_nothing_is_wider_than_the_screen(opened):
  unfold(opened)
  width = opened.viewport_size['width']
  assert opened.evaluate('document.documentElement.scrollWidth') == width
  for box in opened.locator('.scroll, figure, pre, p').all():
    at = box.bounding_box()
    assert at['x'] >= 0
    assert at['x'] + at['width'] <= width
  # No text leaves its plot.
  outside = opened.evaluate("""() => [...document.querySelectorAll('svg text')]
    .filter(text => {
      const a = text.getBoundingClientRect();
      const b = text.closest('svg').getBoundingClientRect();
      return a.left < b.left - 1 || a.right > b.right + 1
        || a.top < b.top - 1 || a.bottom > b.bottom + 1;
    }).map(text => text.textContent)""")
  assert outside == []


def test_wide_tables_scroll_with_fixed_first_column(opened):
  unfold(opened)
  box = opened.locator('#table-4 .scroll').first
  assert box.get_attribute('tabindex') == '0'
  inner, outer = box.evaluate('e => [e.scrollWidth, e.clientWidth]')
  if opened.viewport_size['width'] > 1000:
    assert inner == outer
    return
  assert inner > outer
  box.evaluate('e => e.scrollTo(e.scrollWidth, 0)')
  left = box.bounding_box()['x']
  for part in ('tbody th', 'caption span'):
    at = box.locator(part).first.bounding_box()
    assert left <= at['x'] < left + 20
  # Long names of runs wrap, names of tasks do not.
  heights = {
    name: opened.get_by_role(
      'rowheader', name=name, exact=True
    ).first.bounding_box()['height']
    for name in ('MNLI-m', 'STS-B', 'sweep/cola/layers-0')
  }
  assert heights['MNLI-m'] == heights['STS-B'] < 40
  assert heights['sweep/cola/layers-0'] > heights['STS-B']


def test_contrast_is_sufficient(opened):
  unfold(opened)
  texts = opened.evaluate(TEXTS)
  assert len(texts) > 300
  assert {t['text'] for t in texts} > {'82.1', 'not run', 'layers transferred'}
  faint = [(t, contrast(t)) for t in texts if contrast(t) < 4.5]
  assert faint == []
  lines = opened.evaluate(STROKES)
  assert len(lines) > 40
  assert [t for t in lines if contrast(t) < 3] == []


def test_page_has_a_dark_scheme(report, browser):
  behind = {}
  for scheme in ('light', 'dark'):
    tab = browser.new_page(color_scheme=scheme)
    tab.goto(report.as_uri())
    color = 'getComputedStyle(document.body).backgroundColor'
    behind[scheme] = luminance(tab.evaluate(color))
    tab.close()
  assert behind['dark'] < 0.05
  assert behind['light'] > 0.9


def test_print_shows_whole_tables_without_the_menu(report, browser):
  tab = browser.new_page(viewport={'width': 700, 'height': 900})
  tab.goto(report.as_uri())
  tab.emulate_media(media='print')
  assert not tab.locator('nav').is_visible()
  for box in tab.locator('.scroll:visible').all():
    assert box.evaluate('e => getComputedStyle(e).overflowX') == 'visible'
  tab.close()
