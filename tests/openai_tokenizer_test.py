"""Compares the original vocabulary with published ids and the released code.

That algorithm (the whole text through spaCy, then BPE pair by pair) is written
out here a second time. A made-up vocabulary of the same format serves where the
released one is not the point.
"""

import functools
import itertools
import json
import re

import hypothesis
import pytest
from hypothesis import strategies as st

from gpt1_jax.corpus import cleaning, tokenization
from tests.support import vocabulary

spacy = pytest.importorskip(
  'spacy', reason="the original vocabulary: pip install 'gpt1_jax[openai]'"
)
pytest.importorskip(
  'tokenizers', reason="the original vocabulary: pip install 'gpt1_jax[openai]'"
)


@pytest.fixture(scope='module')
def bpe(tmp_path_factory):
  folder = vocabulary.write_openai(tmp_path_factory.mktemp('small'))
  return tokenization.load(f'openai:{folder}')


@pytest.fixture(scope='module')
def released_bpe(shared_data):
  return tokenization.load(f'openai:{shared_data / "vocab"}')


@pytest.fixture(scope='module')
def published(shared_data):
  """Facts and ids that others published about the released vocabulary."""
  path = shared_data / 'vocab' / 'reference_checks.json'
  return json.loads(path.read_text())


@pytest.fixture(scope='module')
def novels(shared_data):
  """Cleaned text of six novels that share neither author nor layout."""
  paths = sorted((shared_data / 'books').glob('*.txt'))[::10]
  return {
    path.name: cleaning.clean(cleaning.paragraphs(path.read_text('utf-8-sig')))
    for path in paths
  }


def merged(word: str, ranks: dict[tuple[str, str], int]) -> list[str]:
  """Merges a word: repeatedly, all neighbours that form the best pair.

  (C: text_utils.py, bpe.)
  """
  symbols = [*word[:-1], word[-1] + '</w>']
  while len(symbols) > 1:
    pairs = list(itertools.pairwise(symbols))
    best = min(pairs, key=lambda pair: ranks.get(pair, len(ranks)))
    if best not in ranks:
      break
    out = []
    while symbols:
      if tuple(symbols[:2]) == best:
        out.append(symbols[0] + symbols[1])
        del symbols[:2]
      else:
        out.append(symbols.pop(0))
    symbols = out
  return symbols


@functools.cache
def _ranks(bpe) -> dict[tuple[str, str], int]:
  return {pair: rank for rank, pair in enumerate(bpe.merge_list)}


@functools.cache
def english():
  return spacy.blank('en').tokenizer


def released(bpe, cleaned: str, seen: dict[str, list[int]]) -> list[int]:
  """Encodes as the released code does: the whole text through spaCy."""
  ids = []
  for token in english()(cleaned):
    word = token.text.lower()
    if word.startswith('\n'):
      ids.append(bpe.encoder['\n</w>'])
      continue
    if word not in seen:
      seen[word] = [bpe.encoder.get(x, 0) for x in merged(word, _ranks(bpe))]
    ids += seen[word]
  return ids


def test_published_ids(released_bpe, published):
  bpe = released_bpe
  checked = 0
  for check in published['checks']:
    ids = check.get('ids')
    if ids:
      texts = [check['text'], *([check['pair']] if 'pair' in check else [])]
      assert [i for t in texts for i in bpe.encode(t)] == ids
      checked += 1
    if 'words' in check:
      assert bpe.decode(ids) == ' '.join(check['words'])
    if 'tokens' in check:
      assert [f'{bpe.decode([i])}</w>' for i in ids] == check['tokens']
    if 'greedy_text' in check:
      generated = check['greedy_20_ids_with_original_weights']
      assert bpe.encode(check['greedy_text']) == generated
      closed = re.sub(r" (?=[.,']|'m)", '', bpe.decode(generated))
      assert closed == check['greedy_text']
  assert checked == 3


def test_published_facts_of_the_vocabulary(released_bpe, published):
  bpe, facts = released_bpe, published['vocab_facts']
  assert bpe.vocab_size == facts['encoder_entries'] == 40_478
  assert bpe.merges == len(bpe.merge_list) == facts['merges'] == 40_000
  assert bpe.unknown_id == facts['unk_id']
  assert bpe.newline_id == facts['newline_id'] == bpe.document_id
  for rank, (a, b) in enumerate(bpe.merge_list):
    assert bpe.encoder[a + b] == 477 + rank


@pytest.mark.slow
def test_novels_equal_the_released_algorithm(released_bpe, novels):
  """Encoding single words, with a cache, equals encoding the whole text."""
  seen: dict[str, list[int]] = {}
  for name, cleaned in novels.items():
    ids = released_bpe.encode_clean(cleaned)
    assert ids == released(released_bpe, cleaned, seen), name


_PARTS = st.sampled_from(
  [' ', ' ', ' ', '\n', "'", '"', '.', '...', ',', '-', ':', ';', '?', '!', '(',
   ')', '$', '%', '#', '&', '*', '/', '\\', '<', '>', '@', '_', '=', '+', '8)',
   ':)', ":'(", "'s", "n't", "'ll", 'cannot', "Don't", 'Mr.', 'U.S.', 'I.',
   'e.g.', '10km', '5.', '1,000', 'http://a.b/c', 'a@b.co', 'É', 'straße',
   'İ', 'Σ', '—', '’', '\u00a0', '\u2581', '\u200b', '漢字', '😀', 'The',
   'house', 'a', 'I', 'it', 'xyzzy', '</w>', '<unk>', '<start>', '\t', '\r']
)  # fmt: skip


@hypothesis.given(st.lists(_PARTS, max_size=30).map(''.join) | st.text())
@hypothesis.settings(max_examples=300, deadline=None)
def test_any_text_equals_the_released_algorithm(bpe, raw):
  ids = bpe.encode(raw)
  assert ids == released(bpe, cleaning.clean(raw), {})
  assert all(0 <= i < bpe.vocab_size for i in ids)  # never a special


def words_with_spaces(cleaned: str, decoded: str) -> list[tuple[str, str]]:
  """Returns the words that decoding split: (word, word with spaces)."""
  out = []
  rest = iter(decoded)
  for word in cleaned.split(' '):
    spaced, letters = '', 0
    while letters < len(word):
      character = next(rest)
      spaced += character
      letters += character != ' '
    assert next(rest, ' ') == ' '
    if spaced != word:
      out.append((word, spaced))
  assert next(rest, None) is None
  return out


def is_split_for_punctuation(spaced: str) -> bool:
  """Returns True if no space in a word stands between two letters."""
  return all(
    not (spaced[i - 1].isalpha() and spaced[i + 1].isalpha())
    for i, character in enumerate(spaced)
    if character == ' '
  )


@functools.cache
def _split_words() -> set[str]:
  rules = english().rules.items()
  return {word.lower() for word, parts in rules if len(parts) > 1}


@hypothesis.given(st.data())
@hypothesis.settings(max_examples=100, deadline=None)
def test_decoding_a_passage_gives_its_text(released_bpe, novels, data):
  """Loses white space around punctuation, and in words that spaCy splits."""
  cleaned = novels[data.draw(st.sampled_from(sorted(novels)))]
  start = data.draw(st.integers(0, len(cleaned) - 1))
  length = data.draw(st.integers(0, 2000))
  check_decoding(released_bpe, cleaned[start : start + length])


@pytest.mark.slow
def test_decoding_novels_gives_their_text(released_bpe, novels):
  for cleaned in novels.values():
    check_decoding(released_bpe, cleaned)


def check_decoding(bpe, cleaned: str) -> None:
  known = ''.join(c for c in cleaned.lower() if c in ' \n' or c in bpe.encoder)
  known = cleaning.clean(known)
  decoded = bpe.decode(bpe.encode_clean(known))
  for word, spaced in words_with_spaces(known, decoded):
    assert is_split_for_punctuation(spaced) or any(
      part in word for part in _split_words()
    ), (word, spaced)


def test_decoding_is_the_words_and_the_specials(bpe):
  ids = bpe.encode('I\'m sure he is, "she said.\n\nThe end.')
  assert bpe.decode(ids) == ('i \'m sure he is , " she said . \n the end .')
  v = bpe.vocab_size
  assert bpe.decode([v, *bpe.encode('Well'), v + 1, v + 2]) == (
    '<start> well <delimiter> <extract>'
  )


@pytest.mark.parametrize(
  'spelling',
  ['<unk>', '<document>', '\u2581'],
)
def test_spelling_a_symbol_does_not_make_it(bpe, spelling):
  ids = bpe.encode(f'dog{spelling} {spelling}')
  assert max(ids) < bpe.vocab_size
  assert bpe.newline_id not in ids
  if spelling != '\u2581':
    assert bpe.unknown_id not in ids


def test_each_unseen_character_is_one_unknown(bpe):
  assert bpe.encode('fox 漢字😀 dog') == [
    *bpe.encode('fox'), 0, 0, 0, *bpe.encode('dog'),
  ]  # fmt: skip
  assert bpe.decode(bpe.encode('漢')) == '<unk>'
