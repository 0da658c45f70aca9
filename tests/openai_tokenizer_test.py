"""Compares the original vocabulary with published ids and the released code.

That algorithm (the whole text through spaCy, then BPE pair by pair) is written
out here a second time. A made-up vocabulary of the same format serves where the
released one is not the point.
"""

import functools
import itertools
import json
import re
import sys

import hypothesis
import pytest
from hypothesis import strategies as st

from gpt1_jax.corpus import cleaning, tokenization
from gpt1_jax.errors import UserError
from tests.support import vocabulary

spacy = pytest.importorskip(
  'spacy', reason="the original vocabulary: pip install 'gpt1_jax[openai]'"
)
pytest.importorskip(
  'tokenizers', reason="the original vocabulary: pip install 'gpt1_jax[openai]'"
)


@pytest.fixture(scope='module')
def folder(tmp_path_factory):
  return vocabulary.write_openai(tmp_path_factory.mktemp('small'))


@pytest.fixture(scope='module')
def bpe(folder):
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


def huggingface(folder, bpe, kind):
  """Writes the vocabulary as a Hugging Face folder has it."""
  folder.mkdir()
  merges = [' '.join(pair) for pair in bpe.merge_list]
  if kind == 'pair':
    (folder / 'vocab.json').write_text(json.dumps(bpe.encoder, indent=1))
    (folder / 'merges.txt').write_text('\n'.join(['#version: 0.2', *merges]))
    return
  model = {
    'type': 'BPE',
    'unk_token': '<unk>',
    'end_of_word_suffix': '</w>',
    'vocab': bpe.encoder,
    'merges': merges if kind == 'lines' else bpe.merge_list,
  }
  (folder / 'tokenizer.json').write_text(json.dumps({'model': model}))


@pytest.mark.parametrize('kind', ['pair', 'lines', 'lists'])
def test_a_hugging_face_folder_is_the_same_tokenizer(bpe, kind, tmp_path):
  huggingface(tmp_path / 'hf', bpe, kind)
  loaded = tokenization.load(f'openai:{tmp_path / "hf"}')
  assert loaded.fingerprint == bpe.fingerprint
  assert loaded.encode("Don't\nstop.") == bpe.encode("Don't\nstop.")
  loaded.save(tmp_path / 'out')
  assert tokenization.load(tmp_path / 'out').fingerprint == bpe.fingerprint


def test_a_small_vocabulary_of_the_released_layout(tmp_path):
  """A piece that only the merges contain is unknown."""
  merges = [('l', 'o'), ('lo', 'w</w>'), ('e', 'r</w>')]
  encoder = {'<unk>': 0, 'low</w>': 1, 'lo': 2, 'w</w>': 3}
  (tmp_path / 'encoder_bpe.json').write_text(json.dumps(encoder))
  lines = ['#version: 0.0', *map(' '.join, merges)]
  (tmp_path / 'vocab.bpe').write_text('\n'.join(lines))
  bpe = tokenization.load(f'openai:{tmp_path}')
  assert (bpe.vocab_size, bpe.merges) == (4, 3)
  # `er</w>` is made and then not found.
  assert bpe.encode('low lower\nw') == [1, 2, 0, 0, 0, 3]
  assert bpe.newline_id == bpe.document_id == bpe.unknown_id == 0


def test_without_the_extra_the_error_names_it(folder, monkeypatch):
  for module in ('spacy', 'tokenizers'):
    with monkeypatch.context() as patch:
      patch.setitem(sys.modules, module, None)
      with pytest.raises(UserError, match=r'gpt1_jax\[openai\]') as caught:
        tokenization.load(f'openai:{folder}')
      assert module in str(caught.value)


@pytest.mark.parametrize(
  ('files', 'message'),
  [
    ({}, 'no original vocabulary here'),
    ({'vocab.json': '{}'}, 'has vocab.json but not the other half'),
    ({'vocab_40000.bpe': ''}, 'has vocab_40000.bpe but not the other half'),
    ({'vocab.json': '{', 'merges.txt': ''}, r'vocab\.json: damaged'),
    ({'vocab.json': '[]', 'merges.txt': ''}, 'not a vocabulary'),
    ({'vocab.json': '{"a": 0}', 'merges.txt': ''}, 'without <unk>'),
    ({'vocab.json': '{"<unk>": 2}', 'merges.txt': ''}, r'1 ids of 0\.\.2'),
    ({'vocab.json': '{"<unk>": 0}', 'merges.txt': 'a b c'}, "'a b c' is no"),
    ({'vocab.json': '[' * 100_000, 'merges.txt': ''}, 'damaged'),
    ({'vocab.json': '{"\\ud800": 0}', 'merges.txt': ''}, 'damaged'),
    ({'vocab.json': '{"<unk>": 100000000000}', 'merges.txt': ''}, '16 bits'),
    ({'tokenizer.json': '[' * 100_000}, 'not a tokenizer of the BPE kind'),
    (
      {'tokenizer.json': '{"model": {"vocab": {}, "merges": ["\\ud800 a"]}}'},
      'not a tokenizer of the BPE kind',
    ),
    ({'tokenizer.json': '{}'}, 'not a tokenizer of the BPE kind'),
    (
      {'tokenizer.json': '{"model": {"vocab": {}, "merges": []}}'},
      'words end in None',
    ),
  ],
)  # fmt: skip
def test_a_damaged_vocabulary_is_refused(tmp_path, files, message):
  for name, content in files.items():
    (tmp_path / name).write_text(content)
  with pytest.raises(UserError, match=message) as caught:
    tokenization.load(f'openai:{tmp_path}')
  assert str(tmp_path) in str(caught.value)
