"""Tests both tokenizers: files, ids out of range, bounded memory."""

import pytest

from gpt1_jax.corpus import tokenization, vocabulary
from gpt1_jax.errors import UserError
from tests.support import vocabulary as small

_LINES = (
  'the quick brown fox jumps over the lazy dog , said she .',
  'word 0123456789 : well - "that" is the end',
) * 5


@pytest.fixture(params=['sentencepiece', 'openai'])
def bpe(request, tmp_path) -> tokenization.Tokenizer:
  if request.param == 'sentencepiece':
    return small.train_bpe(_LINES, 40)
  pytest.importorskip('spacy', reason='needs the openai extra')
  return tokenization.load(f'openai:{small.write_openai(tmp_path / "small")}')


def test_save_and_load(bpe, tmp_path):
  folder = tmp_path / 'run' / 'tokenizer'
  bpe.save(folder)
  names = sorted(file.name for file in folder.iterdir())
  assert names == (
    ['tokenizer.model']
    if bpe.kind == 'sentencepiece'
    else ['encoder_bpe_40000.json', 'vocab_40000.bpe']
  )
  for path in (tmp_path / 'run', folder):
    loaded = tokenization.load(path)
    assert loaded.description() == bpe.description()
    assert loaded.encode('The fox.') == bpe.encode('The fox.')
  loaded.save(tmp_path / 'again')
  for name in names:
    saved = (tmp_path / 'again' / name).read_bytes()
    assert saved == (folder / name).read_bytes()


def test_the_description_has_the_attributes(bpe):
  description = bpe.description()
  for name in ('kind', 'fingerprint', 'vocab_size', 'merges', 'unknown_id',
               'document_id', 'newline_id'):  # fmt: skip
    assert description[name] == getattr(bpe, name)
  assert 'lower-case' in description['normalization']
  assert 'unknown' in description['unknown']


def test_memory_for_words_is_bounded(bpe, monkeypatch):
  """A full cache starts anew, with whatever else remembers its words."""
  clears = []

  class Cache(vocabulary.WordCache):
    def clear(self):
      clears.append(len(self))
      super().clear()

  monkeypatch.setattr(vocabulary, 'CACHED_WORDS', 10)
  monkeypatch.setattr(vocabulary, 'WordCache', Cache)
  bpe = tokenization.from_files(bpe.files)
  before = bpe.encode('fox dog')
  for i in range(100):
    bpe.encode(f'word{i} {"x" * 100}{i}')
  assert len(clears) > 10
  assert max(clears) <= 10
  assert bpe.encode('fox dog') == before


@pytest.mark.parametrize('spelling', ['<start>', '<delimiter>', '<extract>'])
def test_no_text_makes_a_special(bpe, spelling):
  assert max(bpe.encode(f'dog{spelling} {spelling}')) < bpe.vocab_size
  row = bpe.vocab_size + vocabulary.SPECIALS.index(spelling)
  assert bpe.decode([row]) == spelling


@pytest.mark.parametrize('offset', [-1, 3])
def test_an_id_outside_the_vocabulary_is_refused(bpe, offset):
  bad = -1 if offset < 0 else bpe.vocab_size + offset
  with pytest.raises(UserError, match=rf'token id {bad} is outside'):
    bpe.decode([bad])


def test_a_folder_without_a_tokenizer(tmp_path):
  with pytest.raises(UserError, match='no tokenizer here'):
    tokenization.load(tmp_path)
