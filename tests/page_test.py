"""The page: complete where runs are, honest where not, safe to open."""

import json

import pytest

from gpt1_jax import page
from gpt1_jax.errors import UserError


@pytest.fixture
def runs(tmp_path):
  for name, command, config in (
    ('a', 'pretrain', {'train': {'seed': 0}}),
    (
      'b',
      'finetune',
      {'task': 'rte', 'init_from': 'none', 'train': {'seed': 3}},
    ),
  ):
    folder = tmp_path / name
    folder.mkdir()
    facts = {'command': command, 'config': config, 'commit': 'abc'}
    (folder / 'config.json').write_text(
      json.dumps(facts | {'parameters': 1234})
    )
    rows = [{'step': i, 'loss': 9.0 - i / 900} for i in range(1, 1500)]
    rows.append({'step': 1499, 'eval_loss': 7.5})
    lines = ''.join(json.dumps(r) + '\n' for r in rows)
    (folder / 'metrics.jsonl').write_text(lines + '{"torn')
  scores = {
    'step': 1499,
    'tokens_seen': 98765,
    'eval_perplexity': 12.344,
    'eval_word_perplexity': 23.456,
  }
  (tmp_path / 'a' / 'scores.json').write_text(json.dumps(scores))
  (tmp_path / 'a' / 'samples.txt').write_text('<script>alert(1)</script>')
  return [page.load(str(tmp_path / name)) for name in 'ab']


def test_tables_say_what_ran_and_what_did_not(runs):
  text = page.markdown(page.make_tables(runs))
  first, second = (x for x in text.splitlines() if 'abc' in x)
  assert '| 1,234 | 1,499 | 98,765 | 12.34 | 23.46 | abc |' in first
  assert second.count('not finished') == 3
  assert '| rte | scratch | 3 |' in second


def test_the_page_stands_alone_and_escapes(runs):
  text = page.page(page.make_tables(runs), runs)
  assert text.count('<svg') == 2
  assert '<script' not in text
  assert '&lt;script&gt;' in text
  assert 'src=' not in text
  assert len(text) < 300_000


def test_a_folder_that_is_no_run_is_refused(tmp_path):
  with pytest.raises(UserError, match='not a run'):
    page.load(str(tmp_path))
