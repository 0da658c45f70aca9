"""Sentences of other files are found in a prepared corpus."""

import json

import pytest

from gpt1_jax.corpus import overlap, shards, tokenization
from gpt1_jax.errors import UserError
from tests.support import books as library, commands

STORY = (
  'It was a bright cold day, and the clocks of the old town were striking. '
  '"Don\'t go," she said; he could not hear her over the wind.\n\n'
  'The dog lay down.'
)


@pytest.fixture(scope='module')
def corpus(tmp_path_factory):
  top = tmp_path_factory.mktemp('overlap')
  books = library.write_books(top / 'books', range(8))
  (books / 'story.txt').write_text(STORY, encoding='utf-8')
  commands.succeed(
    'prepare', f'--input={books}', f'--output={top / "out"}', '--merges=60',
    '--validation_fraction=0', '--hold_out=*/000.txt',
  )  # fmt: skip
  return top / 'out'


def _check(corpus, folder, **files):
  folder.mkdir(exist_ok=True)
  for name, content in files.items():
    stem, _, suffix = name.rpartition('_')
    (folder / f'{stem}.{suffix}').write_text(content, encoding='utf-8')
  return overlap.check(corpus, folder)


def test_tokens_are_cut_into_the_words_of_their_text(corpus):
  tokens, bpe = shards.Tokens(corpus, 'train'), tokenization.load(corpus)
  ids = tokens.read(0, tokens.num_tokens)
  pieces = overlap._Pieces(bpe)
  start = 0
  for end in tokens.document_ends.tolist():
    text = bpe.decode(ids[start : end - 1].tolist())
    expected = overlap._word_hashes(overlap._WORDS.findall(text.lower()))
    assert pieces.words(ids[start:end]).tolist() == expected.tolist()
    start = end


def test_sentences_are_found_whatever_their_case_and_punctuation(
  corpus, tmp_path
):
  (row,) = _check(
    corpus,
    tmp_path / 'tasks',
    dev_tsv=(
      'IT WAS A BRIGHT, COLD DAY AND THE CLOCKS OF THE OLD TOWN\t1\n'
      'The dog lay down!\t0\n'
      'The dog lay up.\t0\n'
      'They knew the clocks of the old town were striking twelve\t1\n'
      'too short\t1\n'
    ),
  )
  assert (row.file, row.sentences, row.found, row.shared) == (
    'dev.tsv',
    4,
    2,
    3,
  )
  assert row.examples == [
    'it was a bright cold day and the clocks of the old town',
    'the dog lay down',
  ]


def test_a_run_does_not_reach_across_documents(corpus, tmp_path):
  tokens, bpe = shards.Tokens(corpus, 'train'), tokenization.load(corpus)
  first, second = tokens.document_ends[:2].tolist()
  words = bpe.decode(tokens.read(0, first - 1).tolist()).split()[-4:]
  words += bpe.decode(tokens.read(first, second - first).tolist()).split()[:4]
  (row,) = _check(corpus, tmp_path / 'tasks', seam_txt=' '.join(words))
  assert (row.sentences, row.shared) == (1, 0)


def test_the_command_prints_a_table_and_writes_json(corpus, tmp_path):
  (tmp_path / 'dev.txt').write_text('The dog lay down.\nno cat stood up\n')
  out = commands.succeed(
    'prepare', f'--output={corpus}', f'--check_overlap={tmp_path}'
  )
  assert '| dev.txt | 2 | 1 (50.00%) | 1 (50.00%) |' in out
  (row,) = json.loads((corpus / 'overlap.json').read_text())['files']
  assert (row['found'], row['examples']) == (1, ['the dog lay down'])
  assert 'files are unchanged' in commands.succeed(
    'prepare', f'--output={corpus}', '--verify'
  )


def test_every_kind_of_file(corpus, tmp_path):
  line = 'the dog lay down'
  found = _check(
    corpus,
    tmp_path / 'tasks',
    a_csv=f'"{line}, again and again",3\n"{line}",1\n',
    b_jsonl=json.dumps({'text': line, 'choices': [line.upper(), 'a b c d']}),
    c_txt=f'{line}\n{line}\n',
  )
  assert [(x.file, x.sentences, x.found) for x in found] == [
    ('a.csv', 2, 1), ('b.jsonl', 2, 1), ('c.txt', 1, 1),
  ]  # fmt: skip
  assert '| c.txt | 1 | 1 (100.00%) | 1 (100.00%) |' in overlap.table(found)
  (tmp_path / 'tasks' / 'a.csv').write_text('"' + 'y' * (2**24 + 1))
  with pytest.raises(UserError, match=r'a\.csv:1: a cell of more than'):
    overlap.check(corpus, tmp_path / 'tasks')
  (tmp_path / 'none').mkdir()
  with pytest.raises(UserError, match=r'none: no \.txt'):
    overlap.check(corpus, tmp_path / 'none')
