"""`prepare --engine=beam` writes the bytes and errors of the local engine."""

import json
import os

import pytest

pytest.importorskip(
  'apache_beam', reason="needs Apache Beam: pip install 'gpt1_jax[beam]'"
)

import numpy as np

from gpt1_jax.corpus import shards
from gpt1_jax.corpus.beam import pipelines
from gpt1_jax.errors import UserError
from tests.support import engines, vocabulary


@pytest.fixture
def mixed(tmp_path):
  return engines.write_mixed(tmp_path / 'in', engines.pages())


@pytest.mark.slow
def test_real_books_of_every_form(shared_data, tmp_path):
  """Runs the command, with a sample smaller than the text."""
  files = sorted((shared_data / 'books').glob('*.txt'))[3:52:8]
  texts = [file.read_text('utf-8-sig') for file in files]
  inputs = engines.write_mixed(tmp_path / 'in', texts)
  flags = [f'--input={spec}' for spec in inputs]
  flags += ['--merges=300', '--validation_fraction=0.2']
  flags += ['--shard_tokens=70001', '--tokenizer_sample_mb=1']
  local, beam_output = tmp_path / 'local', tmp_path / 'beam'
  said = engines.prepare(*flags, f'--output={local}').splitlines()[1:3]
  again = engines.prepare(
    *flags, f'--output={beam_output}', engines.BEAM
  ).splitlines()[1:3]
  assert again == said
  assert engines.files(beam_output) == engines.files(local)
  meta = shards.read_meta(beam_output)
  assert len(meta['splits']['train']['shards']) > 10
  assert meta['splits']['train']['words'] * 5 > 2_000_000  # more than a sample
  splits = [row.split for row in shards.read_documents(beam_output)]
  assert splits.count('duplicate') > 47


@pytest.mark.parametrize('shard_tokens', [997, 50])
def test_the_bytes_of_the_local_engine(mixed, tmp_path, shard_tokens):
  found = engines.both(
    tmp_path, engines.settings(mixed, shard_tokens=shard_tokens)
  )
  assert len(found) > 100
  splits = [row.split for row in shards.read_documents(tmp_path / 'beam')]
  assert splits.count('duplicate') > 47


def test_documents_are_held_out_by_name(mixed, tmp_path):
  changes = {'validation_fraction': 0.0, 'hold_out': ('*:2',)}
  engines.both(tmp_path, engines.settings(mixed, **changes))
  rows = list(shards.read_documents(tmp_path / 'beam'))
  held_out = [row.source for row in rows if row.split == 'validation']
  assert held_out
  assert held_out == [
    row.source
    for row in rows
    if row.source.endswith(':2') and row.split != 'duplicate'
  ]
  changes['hold_out'] = ('*:x',)
  with pytest.raises(UserError, match=r'--hold_out=\*:x: matches the source'):
    engines.fill(tmp_path / 'none', engines.settings(mixed, **changes))


def test_a_given_tokenizer(mixed, tmp_path):
  engines.both(tmp_path, engines.settings(mixed))
  given = {'merges': None, 'tokenizer': str(tmp_path / 'local')}
  engines.both(tmp_path / 'next', engines.settings(mixed[:1], **given))
  folder = vocabulary.write_openai(tmp_path / 'vocabulary')
  given = {'merges': None, 'tokenizer': f'openai:{folder}'}
  found = engines.both(
    tmp_path / 'openai', engines.settings(mixed[:1], **given)
  )
  assert 'vocab_40000.bpe' in found


def test_bad_rows_are_left_out(mixed, tmp_path):
  rows = tmp_path / 'in' / 'bad.jsonl'
  rows.write_text('{"text": ""}\n{"text": "good"}\n{"text": null}\nx\n')
  (tmp_path / 'in' / 'texts' / 'x.txt').write_bytes(b'\xff')
  inputs = [str(rows), *mixed]
  found = engines.both(tmp_path, engines.settings(inputs, skip_bad_rows=4.0))
  lines = found['rejected.jsonl'].decode().splitlines()
  assert [json.loads(line)['source'] for line in lines] == [
    *(f'{rows}:{i}' for i in (1, 3, 4)),
    f'{tmp_path}/in/texts/x.txt',
  ]
  with pytest.raises(UserError, match='4 bad documents so far; the first: '):
    engines.fill(tmp_path / 'none', engines.settings(inputs, skip_bad_rows=3.0))


def test_a_corpus_of_few_books_is_split(mixed, tmp_path):
  """A book is held out, or the last part of the only one."""
  engines.both(
    tmp_path / 'few', engines.settings(mixed[1:2], validation_fraction=1e-9)
  )
  meta = shards.read_meta(tmp_path / 'few' / 'beam')
  assert meta['splits']['validation']['documents'] == 1
  engines.both(tmp_path / 'one', engines.settings(mixed[3:]))
  rows = shards.read_documents(tmp_path / 'one' / 'beam')
  assert [(row.source, row.split) for row in rows] == [
    (f'{mixed[3]}#{split}', split) for split in shards.SPLITS
  ]


def test_documents_are_put_in_order(tmp_path):
  def record(i, number, tokens):
    row = {'source': f'{i}:{number}', 'sha256': 'f', 'words': 1}
    row |= {'split': 'train' if tokens else 'duplicate', 'tokens': len(tokens)}
    content = np.array(tokens, shards.DTYPE).tobytes()
    return {'input': i, 'number': number, 'row': json.dumps(row),
            'content': content}  # fmt: skip

  records = [
    record(10, 0, [6, 7]),
    record(2, 11, [5]),
    record(0, 0, [1, 2, 3]),
    record(2, 2, []),
    record(2, 1, [4]),
  ]
  splits = pipelines.write_in_order(records, tmp_path, 4)
  assert splits['train']['tokens'] == 7
  assert splits['train']['documents'] == 4
  data = b''.join(
    (tmp_path / shard['name']).read_bytes()
    for shard in splits['train']['shards']
  )
  assert np.frombuffer(data, shards.DTYPE).tolist() == [*range(1, 8)]
  sources = [row.source for row in shards.read_documents(tmp_path)]
  assert sources == ['0:0', '2:1', '2:2', '2:11', '10:0']


def test_either_engine_accepts_the_output_of_the_other(tmp_path):
  folder = tmp_path / 'in'
  folder.mkdir()
  for i, page in enumerate(engines.pages()):
    (folder / f'{i}.txt').write_text(page)
  flags = (f'--input={folder}', '--merges=60', '--validation_fraction=0.3')
  local, other = tmp_path / 'local', tmp_path / 'beam'
  engines.prepare(*flags, f'--output={local}')
  engines.prepare(*flags, f'--output={other}', engines.BEAM)
  before = {file: file.stat().st_mtime_ns for file in other.iterdir()}
  assert 'already complete' in engines.prepare(
    *flags, f'--output={local}', engines.BEAM
  )
  assert 'already complete' in engines.prepare(*flags, f'--output={other}')
  assert 'files are unchanged' in engines.prepare(
    f'--output={other}', '--verify', engines.BEAM
  )
  line = engines.refused(
    flags[0], '--merges=61', flags[2], f'--output={other}', engines.BEAM
  )
  assert 'other settings (merges)' in line
  (folder / '0.txt').write_text('something else')
  line = engines.refused(*flags, f'--output={other}', engines.BEAM)
  assert 'its input has changed' in line
  assert before == {file: file.stat().st_mtime_ns for file in other.iterdir()}
  assert sorted(os.listdir(tmp_path)) == ['beam', 'in', 'local']
