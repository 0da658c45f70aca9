"""A tokenizer.json gives the ids of our own tokenizers.

The texts are Python's reference manual, which ships with Python, and whole
novels where they are available.
"""

import re
import sys
from pydoc_data import topics

import ftfy
import hypothesis
import pytest
from hypothesis import strategies as st

from gpt1_jax.corpus import cleaning, tokenization
from gpt1_jax.errors import UserError
from gpt1_jax.interop import tokenizer_json
from tests.support import vocabulary

tokenizers = pytest.importorskip(
  'tokenizers', reason="tokenizer.json: pip install 'gpt1_jax[openai]'"
)

_SPELLED = ['<document>', '<newline>', '<unk>', '<start>', '<|start|>', '</w>']


def load(bpe):
  return tokenizers.Tokenizer.from_str(tokenizer_json.build(bpe))


@pytest.fixture(scope='module')
def novels(shared_data):
  paths = sorted((shared_data / 'books').glob('*.txt'))[::10]
  return [cleaning.paragraphs(path.read_text('utf-8-sig')) for path in paths]


@pytest.fixture(scope='module')
def manual():
  texts = [topics.topics[name] for name in sorted(topics.topics)]
  return [cleaning.paragraphs(text) for text in texts]


@pytest.fixture(scope='module')
def bpe(manual):
  return vocabulary.train_bpe(map(cleaning.clean, manual[:60]), 3000)


@pytest.fixture(scope='module')
def converted(bpe):
  return load(bpe)


@pytest.fixture(scope='module')
def original(tmp_path_factory):
  """A small vocabulary of the released kind."""
  pytest.importorskip('spacy', reason="pip install 'gpt1_jax[openai]'")
  folder = vocabulary.write_openai(tmp_path_factory.mktemp('original'))
  return tokenization.load(f'openai:{folder}')


@pytest.fixture(scope='module')
def converted_original(original):
  return load(original)


@pytest.fixture(scope='module')
def released(shared_data):
  pytest.importorskip('spacy', reason="pip install 'gpt1_jax[openai]'")
  return tokenization.load(f'openai:{shared_data / "vocab"}')


def assert_same_ids(ours, theirs, text):
  """Compares ids and the decoded text; SentencePiece's without unknown ones."""
  ids = ours.encode(text)
  assert theirs.encode(text).ids == ids
  dropped = ours.unknown_id if ours.kind == 'sentencepiece' else None
  shown = [i for i in ids if i != dropped]
  assert theirs.decode(shown) == ours.decode(shown)
  return ids


def test_the_manual_through_sentencepiece(bpe, converted, manual):
  """Much of it was not trained on, and holds unknown characters."""
  ids = [i for text in manual for i in assert_same_ids(bpe, converted, text)]
  assert ids.count(bpe.unknown_id)
  assert ids.count(bpe.newline_id) > 100


@pytest.mark.slow
def test_novels_through_sentencepiece(novels):
  bpe = vocabulary.train_bpe(map(cleaning.clean, novels[:4]), 8000)
  converted = load(bpe)
  unknown = 0
  for novel in novels:
    ids = assert_same_ids(bpe, converted, novel)
    unknown += ids.count(bpe.unknown_id)
    assert ids.count(bpe.newline_id) > 100
  assert unknown


_PARTS = st.sampled_from(
  [*_SPELLED, *'aehnosti.,-!?"\'()', 'ha', 'the', 'ing', 'aa', '--', '...',
   '\n', ' ', '  ', '\n\n', '\t', '\r\n', '😀', '漢字', 'É', 'Σ', 'ΟΔΟΣ', 'ß',
   '—', '…', '\u2019', '\u201c', '\u2581', '\ue000', '\x07', '\u00a0']
)  # fmt: skip


@hypothesis.given(st.lists(_PARTS, max_size=30).map(''.join))
@hypothesis.settings(max_examples=400, deadline=None)
def test_any_text_through_sentencepiece(bpe, converted, raw):
  # Only our tokenizer repairs a wrong encoding (ftfy takes É“ for ɓ).
  hypothesis.assume(
    all(ftfy.fix_encoding(line) == line for line in raw.split('\n'))
  )
  assert converted.encode(raw).ids == bpe.encode(raw)


@pytest.mark.parametrize('spelling', _SPELLED)
def test_no_text_makes_a_symbol(bpe, converted, spelling):
  ids = converted.encode(f'a {spelling} b').ids
  assert ids == bpe.encode(f'a {spelling} b')
  assert not {bpe.document_id, bpe.newline_id} & set(ids)
  assert max(ids) < bpe.vocab_size
  assert not converted.get_added_tokens_decoder()


def test_symbols_have_their_rows(bpe, converted):
  assert converted.token_to_id('\n') == bpe.newline_id
  for symbol in ('<document>', '<unk>'):
    assert converted.token_to_id(symbol) == bpe.pieces.index(symbol)
  for i, special in enumerate(['<|start|>', '<|delimiter|>', '<|extract|>']):
    assert converted.token_to_id(special) == bpe.vocab_size + i
  assert converted.get_vocab_size() == bpe.vocab_size + 3


@pytest.mark.slow
def test_novels_through_the_released_vocabulary(released, novels):
  converted = load(released)
  for novel in novels:
    assert_same_ids(released, converted, novel)


def test_the_manual_through_an_original_vocabulary(
  original, converted_original, manual
):
  """Compares words only: spaCy splits code by rules that are not exported."""
  for text in manual:
    words = re.findall(r"(?<!\S)[A-Za-z][a-z']*[,.;!?]?(?!\S)", text)
    text = ' '.join(words)
    assert converted_original.encode(text).ids == original.encode(text)


@pytest.mark.parametrize(
  'raw',
  [
    "I'm sure he cannot, Mr. Smith! 'Tis John's. It was I.",
    "'Don't,' said he; \"they'll've gone at 10km...\" U.S. e.g. a.m.",
    "'em, doin' nothin' o'clock ma'am. d'Artagnan's's '' ``x''",
    'In 1864. No. V. and VI.: said.He 5% of $5 £6. (a)b [c]\n\nEnd.',
    'the president is',
    "é. É. ÉÉ. l'été. \u2018Tis\u2019 \u201cso\u201d \u2014 1lb 2in.",
  ],
)
def test_other_words_are_split_the_same(original, converted_original, raw):
  assert_same_ids(original, converted_original, raw)


@hypothesis.given(st.text('abcXYZ,-!?"();\n 09', max_size=60))
@hypothesis.settings(max_examples=300, deadline=None)
def test_any_text_without_apostrophes_and_full_stops(
  original, converted_original, raw
):
  assert converted_original.encode(raw).ids == original.encode(raw)


def test_a_vocabulary_without_its_pieces_has_none(tmp_path):
  pytest.importorskip('spacy', reason="pip install 'gpt1_jax[openai]'")
  (tmp_path / 'vocab.json').write_text('{"<unk>": 0, "ab</w>": 1}')
  (tmp_path / 'merges.txt').write_text('#version: 0.2\na b</w>\n')
  assert tokenizer_json.build(tokenization.load(f'openai:{tmp_path}')) is None


def test_without_the_library_the_error_names_the_extra(bpe, monkeypatch):
  monkeypatch.setitem(sys.modules, 'tokenizers', None)
  with pytest.raises(UserError, match=r'gpt1_jax\[openai\]'):
    tokenizer_json.build(bpe)
