"""The SentencePiece tokenizer: exact merges, round trips, symbols."""

import collections
import random

import hypothesis
import pytest
import sentencepiece
from hypothesis import strategies as st

from gpt1_jax.corpus import cleaning, sentencepiece_tokenizer, tokenization
from gpt1_jax.errors import UserError
from tests.support import vocabulary

_LINES = (
  'the quick brown fox jumps over the lazy dog',
  'the then there these them',
  'a dog and a fox , and the river ; it ran "below" the house .',
  'in 1864 she said : well - what ? <document> <newline> <unk>',
) * 5


@pytest.fixture(scope='module')
def bpe() -> sentencepiece_tokenizer.SentencePieceTokenizer:
  return vocabulary.train_bpe(_LINES, 40)


def _pieces(
  bpe: sentencepiece_tokenizer.SentencePieceTokenizer, tmp_path
) -> list[str]:
  """Returns the rows of the model as SentencePiece reads them."""
  bpe.save(tmp_path)
  model = sentencepiece.SentencePieceProcessor()
  model.Load(str(tmp_path / 'tokenizer.model'))
  return [model.IdToPiece(i) for i in range(model.GetPieceSize())]


def test_rows_are_symbols_then_merges_then_base_characters(bpe, tmp_path):
  pieces = _pieces(bpe, tmp_path)
  assert pieces[:3] == ['<unk>', '<document>', '<newline>']
  assert (bpe.unknown_id, bpe.document_id, bpe.newline_id) == (0, 1, 2)
  assert all(len(piece) > 1 for piece in pieces[3:43])
  assert bpe.merges == 40
  characters = set(''.join(_LINES)) - {' '} | {'\u2581'}
  assert set(pieces[43:]) == characters
  assert bpe.vocab_size == len(pieces) == 3 + 40 + len(characters)


def test_every_count_of_merges_is_met_exactly():
  for merges in (1, 2, 7, 25, 60):
    assert vocabulary.train_bpe(_LINES, merges).merges == merges


@pytest.mark.slow
def test_forty_thousand_merges_by_the_models_own_record(shared_data, tmp_path):
  """The paper's count (P §4.1), read from the model file itself."""
  pytest.importorskip('google.protobuf', reason='reads the model file')
  from sentencepiece import sentencepiece_model_pb2 as model_pb2

  words = collections.Counter()
  for path in (shared_data / 'books').glob('*.txt'):
    words += sentencepiece_tokenizer.count_words(
      [cleaning.clean(path.read_text('utf-8-sig'))]
    )
  bpe = sentencepiece_tokenizer.train(words, 40_000)
  bpe.save(tmp_path)
  content = (tmp_path / 'tokenizer.model').read_bytes()
  model = model_pb2.ModelProto.FromString(content)
  assert model.trainer_spec.model_type == model_pb2.TrainerSpec.BPE
  assert model.trainer_spec.character_coverage == 1
  assert model.normalizer_spec.name == 'identity'
  assert not model.normalizer_spec.precompiled_charsmap
  kinds = model_pb2.ModelProto.SentencePiece
  assert [p.type for p in model.pieces[:3]] == [
    kinds.UNKNOWN, kinds.CONTROL, kinds.CONTROL,
  ]  # fmt: skip
  assert all(p.type == kinds.NORMAL for p in model.pieces[3:])
  pieces = [p.piece for p in model.pieces[3:]]
  merges, characters = pieces[:40_000], set(pieces[40_000:])
  assert all(len(c) == 1 for c in characters)
  assert len(characters) == len(model.pieces) - 40_003
  # Each joins two earlier pieces; more frequent ones come first.
  scores = [p.score for p in model.pieces[3:40_003]]
  assert scores == [-float(rank) for rank in range(40_000)]
  made = set(characters)
  for merge in merges:
    assert any(
      merge[:i] in made and merge[i:] in made for i in range(1, len(merge))
    )
    assert merge not in made
    assert merge == merge.lower()
    made.add(merge)
  assert bpe.merges == bpe.description()['merges'] == 40_000


def test_too_many_merges_names_the_number_that_works():
  with pytest.raises(UserError, match=r'allows only \d+') as caught:
    vocabulary.train_bpe(_LINES, 10_000)
  possible = int(str(caught.value).split('allows only ')[1].split(';')[0])
  assert vocabulary.train_bpe(_LINES, possible).merges == possible
  with pytest.raises(UserError, match=f'allows only {possible};'):
    vocabulary.train_bpe(_LINES, possible + 1)


def test_vocabulary_has_to_fit_16_bits():
  with pytest.raises(UserError, match=r'16 bits; ask for \d+ or fewer'):
    vocabulary.train_bpe(_LINES, 65_500)


def test_nothing_to_train_on():
  with pytest.raises(UserError, match='no text'):
    vocabulary.train_bpe(['', ' '], 5)


def test_training_depends_on_the_counts_of_words_only(bpe):
  lines = list(_LINES)
  random.Random(0).shuffle(lines)
  again = vocabulary.train_bpe(' '.join(lines).split(' '), 40)
  assert again.fingerprint == bpe.fingerprint
  assert vocabulary.train_bpe(_LINES[:3], 40).fingerprint != bpe.fingerprint


@pytest.mark.parametrize(
  'raw',
  [
    'The quick—brown FOX',
    '"Well," she said.\n\nThe dog ran…\n  the river  ',
    'a\nb\n\n\nc',
    'fox',
    '',
    '\n',
  ],
)
def test_decoding_gives_the_cleaned_lower_cased_text(bpe, raw):
  assert bpe.decode(bpe.encode(raw)) == cleaning.clean(raw).lower()


def test_newlines_are_symbols(bpe):
  ids = bpe.encode('the fox\nthe dog\nthe river')
  assert ids.count(bpe.newline_id) == 2
  assert ids == [
    *bpe.encode('the fox'),
    bpe.newline_id,
    *bpe.encode('the dog'),
    bpe.newline_id,
    *bpe.encode('the river'),
  ]


@pytest.mark.parametrize(
  'spelling',
  ['<document>', '<newline>', '<unk>', '<s>', '</s>', '<start>', '<extract>',
   '<delimiter>', '<0x0A>', '\u2581<newline>'],
)  # fmt: skip
def test_spelling_a_symbol_does_not_make_it(bpe, spelling):
  ids = bpe.encode(f'a{spelling} {spelling} dog')
  assert bpe.document_id not in ids
  assert bpe.newline_id not in ids
  assert max(ids) < bpe.vocab_size
  if not {'/', '0', '\u2581'} & set(spelling):
    assert bpe.unknown_id not in ids
    assert bpe.decode(ids) == f'a{spelling} {spelling} dog'


_SPELLED = st.sampled_from(
  ['<document>', '<newline>', '<unk>', '<start>', '<extract>', '\u2581', '\n',
   ' ', '\r', '\x00', '\x85', '😀', '漢字', 'é', 'fox', '<', '>', '\u2585']
)  # fmt: skip


@hypothesis.given(st.lists(_SPELLED, max_size=20).map(''.join) | st.text())
def test_no_text_makes_a_symbol(bpe, raw):
  """The only symbols are unknown, and the newlines of the text."""
  ids = bpe.encode(raw)
  assert bpe.document_id not in ids
  assert ids.count(bpe.newline_id) == cleaning.clean(raw).count('\n')
  assert all(0 <= i < bpe.vocab_size for i in ids)


def test_text_with_symbols_spelled_in_training_keeps_them_out(bpe, tmp_path):
  assert '<document>' not in _pieces(bpe, tmp_path)[3:]


def test_a_run_of_unseen_characters_in_a_word_is_one_unknown(bpe):
  assert bpe.encode('fox 😀😀漢字 dog') == [
    *bpe.encode('fox'),
    *bpe.encode('😀'),
    *bpe.encode('dog'),
  ]
  assert bpe.encode('😀漢').count(bpe.unknown_id) == 1
  assert bpe.encode('😀 漢').count(bpe.unknown_id) == 2
  assert bpe.encode('😀a漢').count(bpe.unknown_id) == 2


def test_sentencepiece_marks_in_text_make_no_word_break(bpe):
  ids = bpe.encode('the\u2581dog')
  assert ids.count(bpe.unknown_id) == 1  # `_`, which the text has not
  vocabulary.train_bpe([*_LINES, 'a\u2581b \u2585 \u2585c'], 40)


def test_rare_characters_are_left_to_unknown():
  count_words = sentencepiece_tokenizer.count_words
  often = dict.fromkeys(count_words(['the cat sat']), 1500000)
  words = count_words(['漢the cat']) + collections.Counter(often)
  bpe = sentencepiece_tokenizer.train(words, 4)
  assert bpe.vocab_size == 3 + 4 + len(set('thecatsat')) + 1
  assert bpe.encode('漢')[-1] == bpe.unknown_id


def test_a_word_without_end_can_be_trained_on_and_encoded():
  word = 'abcd' * 50_000
  bpe = vocabulary.train_bpe([word, *_LINES], 30)
  assert bpe.merges == 30
  assert bpe.decode(bpe.encode(word)) == word


def test_encoding_words_equals_encoding_lines(tmp_path):
  """SentencePiece encodes whole lines to the same ids."""
  from pydoc_data import topics

  prose = '\n'.join(topics.topics[name] for name in sorted(topics.topics))
  lines = cleaning.clean(prose[:300_000]).split(' \n ')
  bpe = vocabulary.train_bpe(lines, 1000)
  lines += ['漢字 fox😀', "can't stop", '<document>']
  bpe.save(tmp_path)
  model = sentencepiece.SentencePieceProcessor()
  model.Load(str(tmp_path / 'tokenizer.model'))
  expected = [model.EncodeAsIds(line.lower()) for line in lines]
  assert [bpe.encode_clean(line) for line in lines] == expected


def test_a_file_that_is_no_model(tmp_path):
  (tmp_path / 'x.model').write_bytes(b'no model')
  with pytest.raises(UserError, match='not a SentencePiece model'):
    tokenization.load(tmp_path / 'x.model')


def test_a_truncated_model(bpe, tmp_path):
  bpe.save(tmp_path)
  file = tmp_path / 'tokenizer.model'
  file.write_bytes(file.read_bytes()[:-700])
  with pytest.raises(UserError, match=r'tokenizer\.model'):
    tokenization.load(tmp_path)


def test_a_foreign_model_is_refused(tmp_path):
  prefix = tmp_path / 'foreign'
  sentencepiece.SentencePieceTrainer.Train(
    sentence_iterator=iter(_LINES),
    model_prefix=str(prefix),
    model_type='bpe',
    vocab_size=60,
    minloglevel=2,
  )
  with pytest.raises(UserError, match='no control piece <document>'):
    tokenization.load(f'{prefix}.model')


def test_a_piece_that_is_not_utf8_is_named():
  model = vocabulary.train_bpe(['caf\u00e9 caf\u00e9 cab'] * 9, 2).files
  (content,) = model.values()
  damaged = content.replace('\u00e9'.encode(), b'\xc3\x28', 1)
  assert damaged != content
  with pytest.raises(
    UserError, match=r'x\.model: damaged, a piece is not UTF-8'
  ):
    sentencepiece_tokenizer.SentencePieceTokenizer(damaged, 'x.model')
