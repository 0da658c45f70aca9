"""Tests the page of the server in Chromium."""

import numpy as np
import pytest

from tests.support import browsers, commands, released

sync_api = pytest.importorskip(
  'playwright.sync_api', reason="pip install 'gpt1_jax[browser]'"
)
sync_api.expect.set_options(timeout=60_000)  # the server may compile first
pytestmark = browsers.MARKS


@pytest.fixture(scope='module')
def browser():
  with browsers.chromium() as started:
    yield started


PROMPT = 'the quick brown fox\nand the old dog'


@pytest.fixture(scope='module')
def run(tmp_path_factory):
  """A run whose weights are so large that tokens and heads differ."""
  return released.legible_run(tmp_path_factory.mktemp('runs') / 'run', PROMPT)


@pytest.fixture(scope='module')
def server(run):
  pytest.importorskip('uvicorn', reason="pip install 'gpt1_jax[serve]'")
  with commands.serving(run.name) as url:
    yield url


@pytest.fixture
def tab(server, browser):
  """Opens the server's page; checks that it logs nothing."""
  opened = browser.new_page()
  said = []
  opened.on('console', lambda message: said.append(message.text))
  opened.on('pageerror', lambda error: said.append(str(error)))
  opened.goto(server)
  sync_api.expect(opened.locator('#model')).to_have_text('run')
  opened.fill('#prompt', PROMPT)
  yield opened
  assert said == []
  opened.close()


def generate(tab, tokens):
  tab.fill('#max', str(tokens))
  tab.click('#go')
  sync_api.expect(tab.locator('#go')).to_be_enabled()
  return tab.text_content('#text')


def shades(tab):
  """Returns the opacity of each token's shade; 0 without one."""
  return tab.evaluate("""() => [...document.querySelectorAll('#text span')]
    .map(token => getComputedStyle(token).backgroundColor)
    .map(color => +(/rgba.*, (.*)\\)/.exec(color) || [0, 1])[1])""")


def test_the_server_page_shades_tokens_by_probability(tab, run):
  text = generate(tab, 8)
  assert text == run.generate(
    PROMPT, max_tokens=8, temperature=0.8, top_p=0.95, seed=1
  )
  ids = run.encode(PROMPT)
  probabilities = np.exp(run.predictions([ids], 1)[0].log_probs_BT)
  assert probabilities[1:].std() > 0.01
  found = shades(tab)
  assert found[0] == 0  # the first token has no probability
  np.testing.assert_allclose(
    found[1 : len(ids)], 0.75 * probabilities[1:], rtol=0, atol=0.003
  )
  tab.hover('#text span >> nth=2')
  about = tab.locator('#about')
  assert f'had {100 * probabilities[2]:.2f} %' in about.text_content()
  assert about.locator('tr').count() >= 5


def test_the_server_page_shades_tokens_by_attention(tab, run):
  """The text is longer than the context: the last 48 tokens count."""
  generate(tab, 60)
  pieces = tab.locator('#text span')
  cut = pieces.count() - run.config.n_ctx
  assert cut > 0
  tab.select_option('#layer', '1')
  tab.select_option('#head', '2')
  pieces.nth(cut + 20).click()
  tab.select_option('#mode', 'a')
  # No query sees a later token.
  sync_api.expect(pieces.last).to_have_css(
    'background-color', 'rgba(36, 112, 204, 0)'
  )
  ids = [
    *run.encode(PROMPT),
    *(
      piece.token.id
      for piece in run.stream(
        PROMPT, max_tokens=60, temperature=0.8, top_p=0.95, seed=1
      )
    ),
  ]
  weights = run.attentions(ids[-run.config.n_ctx :])[1, 2, 20]
  want = [*[0] * cut, *(0.75 * weights / weights.max())]
  np.testing.assert_allclose(shades(tab), want, rtol=0, atol=0.003)
  pieces.nth(0).click()
  sync_api.expect(tab.locator('#about.error')).to_contain_text('no longer')


def test_the_server_page_says_how_a_sample_ends_and_forgets_the_last(tab, run):
  hint = tab.text_content('#about')
  generate(tab, 8)
  end = tab.locator('#end')
  assert end.text_content() == 'All tokens asked for.'
  tab.hover('#text span >> nth=2')
  assert 'had' in tab.text_content('#about')
  seed = next(
    seed
    for seed in range(1, 1000)
    if len([*run.stream(PROMPT, max_tokens=200, temperature=1, seed=seed)])
    < 200
  )
  tab.fill('#temperature', '1')
  tab.fill('#top_p', '1')
  tab.fill('#seed', str(seed))
  tab.mouse.move(0, 0)
  generate(tab, 200)
  assert end.text_content() == 'The document ends here.'
  assert tab.text_content('#about') == hint


def test_the_server_page_streams_and_stops(tab):
  tab.fill('#max', '4096')
  tab.click('#go')
  sync_api.expect(tab.locator('#text span >> nth=40')).to_be_visible()
  tab.click('#stop')
  sync_api.expect(tab.locator('#go')).to_be_enabled()
  assert 40 < tab.locator('#text span').count() < 4000
  assert tab.locator('#about.error').count() == 0
