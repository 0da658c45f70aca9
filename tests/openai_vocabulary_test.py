"""Reads the original vocabulary from each layout; refuses damaged files."""

import json
import sys

import pytest

from gpt1_jax.corpus import tokenization
from gpt1_jax.errors import UserError
from tests.support import vocabulary

for module in ('spacy', 'tokenizers'):
  pytest.importorskip(
    module, reason="the original vocabulary: pip install 'gpt1_jax[openai]'"
  )


@pytest.fixture(scope='module')
def folder(tmp_path_factory):
  return vocabulary.write_openai(tmp_path_factory.mktemp('small'))


@pytest.fixture(scope='module')
def bpe(folder):
  return tokenization.load(f'openai:{folder}')


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
