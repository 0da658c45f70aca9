"""`prepare` as a user runs it: what comes out, is refused, is left behind."""

import contextlib
import hashlib
import json
import os
import pathlib
import random
import resource
import shutil
import signal
import subprocess
import sys
import time

import numpy as np
import pytest

from gpt1_jax import prepare, storage
from gpt1_jax.corpus import (
  cleaning,
  documents,
  local_engine,
  pipeline,
  shards,
  tokenization,
)
from gpt1_jax.errors import UserError

_ROOT = pathlib.Path(__file__).resolve().parents[1]


def _command(*args: object, **options) -> subprocess.Popen:
  return subprocess.Popen(
    [sys.executable, '-m', 'gpt1_jax.prepare', *map(str, args)],
    cwd=_ROOT,
    text=True,
    stdout=subprocess.PIPE,
    stderr=subprocess.PIPE,
    **options,
  )


def _good(*args: object) -> str:
  process = _command(*args)
  stdout, stderr = process.communicate(timeout=300)
  assert process.returncode == 0, stderr
  assert 'Traceback' not in stderr
  return stdout


def _refused(*args: object, **options) -> str:
  """The one line of the error."""
  process = _command(*args, **options)
  _, stderr = process.communicate(timeout=300)
  assert process.returncode == 1, stderr
  lines = [line for line in stderr.splitlines() if line.startswith('error: ')]
  assert len(lines) == 1, stderr
  assert 'Traceback' not in stderr
  return lines[0]


def _words(seed: int, count: int) -> str:
  draw = random.Random(seed)
  letters = 'etaoinshrdlu'
  return ' '.join(
    ''.join(draw.choices(letters, k=draw.randrange(1, 8))) for _ in range(count)
  )


def _write_books(path: pathlib.Path, seeds: range) -> pathlib.Path:
  path.mkdir(exist_ok=True)
  for seed in seeds:
    lines = [_words(seed * 100 + i, 40) for i in range(10)]
    (path / f'{seed:03d}.txt').write_text('\n'.join(lines) + '.')
  return path


def _split_by_source(output: pathlib.Path) -> dict[str, str]:
  return {
    os.path.basename(row['source']): row['split']
    for row in shards.read_documents(output)
  }


_FLAGS = ('--merges=60', '--validation_fraction=0.25')


@pytest.fixture(scope='module')
def books(tmp_path_factory) -> pathlib.Path:
  return _write_books(tmp_path_factory.mktemp('books') / 'b', range(24))


@pytest.fixture(scope='module')
def output(books, tmp_path_factory) -> pathlib.Path:
  path = tmp_path_factory.mktemp('prepared') / 'out'
  _good(f'--input={books}', f'--output={path}', *_FLAGS, '--shard_tokens=1000')
  return path


def test_shards_hold_every_document_in_order(books, output):
  bpe = tokenization.load(output)
  expected = {'train': [], 'validation': []}
  rows = list(shards.read_documents(output))
  files = sorted(books.glob('*.txt'))
  assert [row['source'] for row in rows] == [str(file) for file in files]
  for row, file in zip(rows, files, strict=True):
    ids = bpe.encode(cleaning.paragraphs(file.read_text()))
    expected[row['split']] += [*ids, bpe.document_id]
    assert row['tokens'] == len(ids) + 1
    assert row['words'] == len(cleaning.clean(file.read_text()).split())
  meta = shards.read_meta(output)
  for split, stream in expected.items():
    tokens = shards.Tokens(output, split)
    np.testing.assert_array_equal(tokens.read(0, tokens.num_tokens), stream)
    mine = [row for row in rows if row['split'] == split]
    facts = meta['splits'][split]
    assert facts['documents'] == len(mine) > 0
    assert facts['words'] == tokens.num_words == sum(r['words'] for r in mine)
    assert (
      facts['tokens'] == tokens.num_tokens == sum(r['tokens'] for r in mine)
    )
    ends = np.flatnonzero(np.array(stream) == bpe.document_id) + 1
    np.testing.assert_array_equal(tokens.document_ends, ends)
  assert len(meta['splits']['train']['shards']) > 2


def test_meta_says_what_was_done(output):
  meta = shards.read_meta(output)
  described = tokenization.load(output).description()
  assert meta['tokenizer'] == described
  assert described['merges'] == 60
  assert meta['cleaning'] == cleaning.CLEANING_VERSION
  assert meta['validation_fraction'] == 0.25
  on_disk = {file.name for file in output.iterdir()} - {'meta.json'}
  assert set(meta['files']) == on_disk


@pytest.mark.parametrize('workers', [1, 3])
def test_output_does_not_depend_on_workers(books, output, tmp_path, workers):
  again = tmp_path / 'again'
  _good(
    f'--input={books}',
    f'--output={again}',
    *_FLAGS,
    '--shard_tokens=1000',
    f'--workers={workers}',
  )
  assert shards.read_meta(again) == shards.read_meta(output)


def test_adding_files_moves_no_document(books, output, tmp_path):
  more = shutil.copytree(books, tmp_path / 'more')
  _write_books(more, range(24, 40))
  shutil.copy(more / '003.txt', more / '100.txt')  # a copy under a later name
  (more / '101.txt').write_text((more / '004.txt').read_text() + ' \r\n\r\n')
  _good(f'--input={more}', f'--output={tmp_path}/out', *_FLAGS)
  before, after = _split_by_source(output), _split_by_source(tmp_path / 'out')
  assert before.items() <= after.items()
  assert after['100.txt'] == after['101.txt'] == 'duplicate'
  assert len([s for s in after.values() if s == 'duplicate']) == 2
  for row in shards.read_documents(tmp_path / 'out'):
    if row['split'] == 'duplicate':
      assert row['tokens'] == row['words'] == 0


def test_split_is_a_function_of_the_hash():
  hashes = [hashlib.sha256(b'%d' % i).hexdigest() for i in range(4000)]

  def held_out(fraction):
    rows = [{'sha256': h, 'source': 'x'} for h in hashes]
    for row in rows:
      pipeline.SplitRule(fraction, ()).place(row, is_copy=False)
    return {r['sha256'] for r in rows if r['split'] == 'validation'}

  for fraction in (0.01, 0.05, 0.5):
    held = held_out(fraction)
    assert len(held) / len(hashes) == pytest.approx(fraction, abs=0.02)
    more = held_out(0.6)
    assert held < more


def test_the_tokenizer_sees_the_training_split_only(tmp_path):
  folder = _write_books(tmp_path / 'b', range(24))
  marks = {}
  for i, file in enumerate(sorted(folder.glob('*.txt'))):
    marks[file.name] = chr(ord('\u0430') + i)  # a letter of its own
    file.write_text(f'{file.read_text()} {marks[file.name]}')
  _good(f'--input={folder}', f'--output={tmp_path}/out', *_FLAGS)
  bpe = tokenization.load(tmp_path / 'out')
  for name, split in _split_by_source(tmp_path / 'out').items():
    unknown = bpe.unknown_id in bpe.encode(marks[name])
    assert unknown == (split == 'validation')


def test_a_sample_trains_the_tokenizer_all_text_is_encoded(tmp_path):
  draw, words = random.Random(0), _words(0, 400).split()
  lines = [' '.join(draw.choices(words, k=2000)) for _ in range(40 * 5)]
  rows = [{'text': '\n'.join(lines[i::40])} for i in range(40)]
  path = tmp_path / 'r.jsonl'
  path.write_text('\n'.join(map(json.dumps, rows)))
  assert path.stat().st_size > 1_800_000
  outs = [tmp_path / 'all', tmp_path / 'some', tmp_path / 'again']
  for out, mb in zip(outs, (1000, 1, 1), strict=True):
    _good(
      f'--input={path}',
      f'--output={out}',
      *_FLAGS,
      f'--tokenizer_sample_mb={mb}',
    )
  prints = [tokenization.load(out).fingerprint for out in outs]
  assert prints[0] != prints[1] == prints[2]
  counts = [shards.read_meta(out)['splits']['train']['words'] for out in outs]
  assert counts[0] == counts[1] == counts[2]


def test_mixed_inputs_and_a_given_tokenizer(books, output, tmp_path):
  rows = tmp_path / 'r.jsonl'
  rows.write_text(
    ''.join(json.dumps({'t': _words(i, 50)}) + '\n' for i in range(20))
  )
  out = tmp_path / 'out'
  flags = (f'--input={rows}', f'--input={books}/00*.txt', '--text_field=t')
  flags += (f'--tokenizer={output}', '--validation_fraction=0.25')
  _good(*flags, f'--output={out}')
  meta = shards.read_meta(out)
  assert meta['tokenizer'] == shards.read_meta(output)['tokenizer']
  sources = [row['source'] for row in shards.read_documents(out)]
  assert sources[:2] == [f'{rows}:1', f'{rows}:2']
  assert sources[20:] == [f'{books}/{i:03d}.txt' for i in range(10)]
  assert 'one of them' in _refused(*flags, '--merges=9', f'--output={out}2')


def test_a_finished_output_is_left_alone(books, tmp_path):
  folder = shutil.copytree(books, tmp_path / 'b')
  out = tmp_path / 'out'
  flags = (f'--input={folder}', f'--output={out}')
  _good(*flags, *_FLAGS)
  before = {
    f.name: (f.stat().st_mtime_ns, f.read_bytes()) for f in out.iterdir()
  }
  assert 'finished before' in _good(*flags, *_FLAGS, '--workers=1')
  assert 'another merges' in _refused(*flags, '--merges=61', _FLAGS[1])
  (folder / '999.txt').write_text('a new one')
  assert 'its input has changed' in _refused(*flags, *_FLAGS)
  shutil.rmtree(folder)
  assert 'finished before' in _good(*flags, *_FLAGS)
  assert 'as they were written' in _good(f'--output={out}', '--verify')
  after = {
    f.name: (f.stat().st_mtime_ns, f.read_bytes()) for f in out.iterdir()
  }
  assert before == after


def test_verify_names_what_is_damaged(output, tmp_path):
  bad = shutil.copytree(output, tmp_path / 'bad')
  file = bad / 'tokenizer.model'
  file.write_bytes(file.read_bytes()[:-1])
  line = _refused(f'--output={bad}', '--verify')
  assert 'tokenizer.model' in line
  assert 'expected' in line
  line = _refused(f'--output={tmp_path}/none', '--verify')
  assert 'no prepared shards' in line


def test_a_foreign_folder_is_not_touched(books, tmp_path):
  (tmp_path / 'thesis.tex').write_text('ten years of work')
  line = _refused(f'--input={books}', f'--output={tmp_path}', *_FLAGS)
  assert 'not touched' in line
  assert [f.name for f in tmp_path.iterdir()] == ['thesis.tex']
  line = _refused(f'--input={books}', f'--output={tmp_path}/thesis.tex/out')
  assert 'thesis.tex' in line


def test_an_output_inside_its_input_is_refused(books, tmp_path):
  folder = shutil.copytree(books, tmp_path / 'b')
  line = _refused(f'--input={folder}', f'--output={folder}/out', *_FLAGS)
  assert f'lies in --input={folder}' in line
  _good(f'--input={folder}/**/*', f'--output={folder}/out', *_FLAGS)
  assert shards.read_meta(folder / 'out')['input']['files'] == 24


def test_a_bad_document_in_the_middle_leaves_nothing(books, tmp_path):
  folder = shutil.copytree(books, tmp_path / 'b')
  (folder / '010.txt').write_bytes(b'good until here \xff')
  line = _refused(f'--input={folder}', f'--output={tmp_path}/out', *_FLAGS)
  assert f'{folder}/010.txt: not UTF-8 at byte 16 (0xff)' in line
  assert not list(tmp_path.glob('out*'))


@pytest.mark.parametrize(
  ('flags', 'words'),
  [
    ((), '--input is missing'),
    (('--input=x', '--validation_fraction=1'), 'between 0 and 1'),
    (('--input=x', '--validation_fraction=0'), '0 itself takes --hold_out'),
    (('--input=x', '--merges=0'), '--merges is 0'),
    (('--input=x', '--workers=0'), '--workers is 0'),
    (('--input=x',), 'no such file'),
    (('--input=gs://b/x',), 'only --engine=beam reads it'),
    (('--input=x', '--beam_options=y'), 'for --engine=beam'),
    (('--input=builtin:python-reference', '--tokenizer=x'), 'no tokenizer'),
    (('what',), "unexpected argument 'what'"),
  ],
)
def test_wrong_flags(tmp_path, flags, words):
  assert words in _refused(*flags, f'--output={tmp_path}/out')
  assert not list(tmp_path.iterdir())


def test_help_has_examples_and_every_flag():
  done = _command('--help')
  stdout, _ = done.communicate(timeout=60)
  for words in ('--input=books/', 'builtin:python-reference', '--[no]verify',
                '--tokenizer_sample_mb', 'Memory stays bounded'):  # fmt: skip
    assert words in stdout


def test_what_python_carries_is_measured(monkeypatch):
  from pydoc_data import topics

  monkeypatch.setattr(topics, 'topics', {'a': 'four', 'b': 'five words'})
  found = documents.measure(['builtin:python-reference', 'tfds:x:train'])
  assert found == {'files': 1, 'bytes': 14}
  assert documents.total_bytes(['builtin:python-reference']) == 14


def test_documents_are_held_out_by_name(books, tmp_path):
  out = tmp_path / 'out'
  flags = (f'--input={books}', '--merges=60', f'--output={out}')
  named = ('--hold_out=*/003.txt', '--hold_out=*/01?.txt')
  _good(*flags, *named, '--validation_fraction=0')
  alone = _held_out(out)
  assert alone == {'003.txt', *(f'01{i}.txt' for i in range(10))}
  shutil.rmtree(out)
  _good(*flags, *_FLAGS)
  by_hash = _held_out(out)
  assert by_hash - alone
  line = _refused(*flags, *named, *_FLAGS)
  assert 'finished before with another hold_out' in line
  shutil.rmtree(out)
  _good(*flags, *named, *_FLAGS)
  assert _held_out(out) == alone | by_hash
  shutil.rmtree(out)
  line = _refused(*flags, *named, '--hold_out=003.txt')
  assert '--hold_out=003.txt: the source of no document is like it' in line
  line = _refused(*flags, '--hold_out=*')
  assert '--hold_out leaves it nothing' in line


def _held_out(path):
  rows = shards.read_documents(path)
  return {
    row['source'].split('/')[-1] for row in rows if row['split'] == 'validation'
  }


def test_an_empty_split_says_which_fraction_fills_it(books, tmp_path):
  flags = (f'--input={books}', f'--output={tmp_path}/out', '--merges=60')
  for fraction, split in ((0.000001, 'validation'), (0.999999, 'train')):
    line = _refused(*flags, f'--validation_fraction={fraction}')
    assert f'the {split} split is empty: all 24 documents' in line
    advice = line.split('--validation_fraction=')[1].split()[0]
    _good(*flags, f'--validation_fraction={advice}')
    assert shards.read_meta(tmp_path / 'out')['splits'][split]['documents'] >= 1
    shutil.rmtree(tmp_path / 'out')


def test_a_single_document_cannot_be_split(tmp_path):
  (tmp_path / 'b').mkdir()
  (tmp_path / 'b' / 'a.txt').write_text('only one')
  (tmp_path / 'b' / 'b.txt').write_text('only  one')
  line = _refused(f'--input={tmp_path}/b', f'--output={tmp_path}/out')
  assert 'a single document (and copies of it)' in line


# The child only sets its limit and becomes another program.
@pytest.mark.filterwarnings('ignore:os.fork:RuntimeWarning')
def test_a_full_disk_is_one_line_and_leaves_nothing(books, tmp_path):
  """A limit on file sizes fails in the same place, as a full disk would."""

  def limit():
    signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
    resource.setrlimit(resource.RLIMIT_FSIZE, (9000, 9000))

  flags = (f'--input={books}', f'--output={tmp_path}/out', *_FLAGS)
  line = _refused(*flags, '--workers=1', preexec_fn=limit)
  assert 'nothing was kept, make room' in line
  assert not list(tmp_path.iterdir())


def test_no_space_left_while_shards_are_written(books, tmp_path, monkeypatch):
  def full(self, tokens):
    raise OSError(28, 'No space left on device')

  monkeypatch.setattr(shards.ShardWriter, 'write', full)
  out = tmp_path / 'out'
  settings = {
    'inputs': [str(books)],
    'text_field': 'text',
    'merges': 60,
    'tokenizer': None,
    'tokenizer_sample_mb': 1,
    'validation_fraction': 0.25,
    'hold_out': [],
    'shard_tokens': 1000,
  }
  with (
    pytest.raises(UserError, match='No space left on device; nothing was kept'),
    storage.atomic_dir(out) as temporary,
  ):
    prepare.prepare(temporary, settings, 1)
  assert not list(tmp_path.iterdir())


def test_beam_is_named_where_it_is_missing(tmp_path, monkeypatch):
  monkeypatch.setitem(sys.modules, 'apache_beam', None)
  with pytest.raises(UserError, match=r"pip install 'gpt1_jax\[beam\]'"):
    prepare.prepare_on_beam(tmp_path, {}, '')


def _children(pid: int) -> list[int]:
  found = subprocess.run(
    ['ps', '-o', 'pid=', '--ppid', str(pid)],
    check=False,
    capture_output=True,
    text=True,
  )
  return [int(word) for word in found.stdout.split()]


def test_a_killed_run_leaves_a_folder_that_the_next_replaces(tmp_path):
  path = tmp_path / 'r.jsonl'
  row = json.dumps({'text': '@ ' + _words(0, 5000)})
  with path.open('w') as file:
    for i in range(1200):
      file.write(row.replace('@', str(i)) + '\n')
  out, left = tmp_path / 'out', tmp_path / 'out.incomplete'
  flags = (f'--input={path}', f'--output={out}', *_FLAGS, '--workers=2')
  process = _command(*flags)
  deadline = time.monotonic() + 60
  while not list(left.glob('spool/*.clean')):
    assert process.poll() is None, process.communicate()
    assert time.monotonic() < deadline
    time.sleep(0.01)
  assert 'another process is writing it' in _refused(*flags)
  workers = _children(process.pid)
  assert len(workers) >= 2
  process.send_signal(signal.SIGKILL)
  process.communicate()
  assert not out.exists()
  assert left.exists()
  for pid in workers:  # workers do not outlive their parent
    while pathlib.Path(f'/proc/{pid}').exists():
      with contextlib.suppress(OSError):
        state = pathlib.Path(f'/proc/{pid}/stat').read_text().rsplit(')')[-1]
        if state.split()[0] == 'Z':
          break
      assert time.monotonic() < deadline
      time.sleep(0.05)
  (left / 'stale').write_text('of the killed run')
  with path.open('w') as file:
    for i in range(20):
      file.write(row.replace('@', str(i)) + '\n')
  _good(*flags)
  assert not left.exists()
  assert not (out / 'stale').exists()
  shards.verify(out)


def _die(job: int) -> int:
  if job == 3:
    os.kill(os.getpid(), signal.SIGKILL)
  return job


def test_a_killed_worker_is_reported():
  with (
    local_engine.Workers(1) as workers,
    pytest.raises(UserError, match='a worker process was killed'),
  ):
    list(workers.map(_die, range(9)))


def test_work_is_taken_up_only_as_results_are():
  taken = []

  def items():
    for i in range(50):
      taken.append(i)
      yield i

  with local_engine.Workers(2) as workers:
    for i, result in enumerate(workers.map(abs, items())):
      assert result == i
      assert len(taken) <= i + 3 * 2
  assert len(taken) == 50


_PEAK = """
import resource, sys
from gpt1_jax import command, prepare
if __name__ == '__main__':
  try:
    command.run(prepare.main)
  except SystemExit:
    for who in (resource.RUSAGE_SELF, resource.RUSAGE_CHILDREN):
      print('peak', resource.getrusage(who).ru_maxrss)
"""


@pytest.mark.slow
def test_memory_does_not_grow_with_the_corpus(tmp_path):
  """Eight times the text, the same peak: what the module promises."""
  script = tmp_path / 'peak.py'
  script.write_text(_PEAK)
  pages = [_words(seed, 3000) for seed in range(16)]
  peaks = []
  for megabytes in (5, 40):
    path = tmp_path / f'{megabytes}.jsonl'
    with path.open('w') as file:
      for i in range(megabytes * 1_000_000 // (4 * len(pages[0]))):
        draw = random.Random(i)
        text_ = '\n'.join([str(i), *draw.sample(pages, 4)])
        file.write(json.dumps({'text': text_}) + '\n')
    done = subprocess.run(
      [
        *(sys.executable, script, f'--input={path}', '--workers=2'),
        *(f'--output={tmp_path}/out{megabytes}', '--merges=50'),
      ],
      env={**os.environ, 'PYTHONPATH': str(_ROOT)},
      check=True,
      capture_output=True,
      text=True,
    )
    lines = [x for x in done.stdout.splitlines() if x.startswith('peak')]
    peaks.append([int(line.split()[1]) / 1000 for line in lines])
  (parent, worker), (parent_8, worker_8) = peaks
  assert parent_8 < parent + 12, peaks
  assert worker_8 < worker + 12, peaks


def test_books(shared_data, tmp_path):
  """Eight novels, half of them hard-wrapped."""
  files = sorted((shared_data / 'books').glob('*.txt'))[::7]
  flags = [f'--input={file}' for file in files]
  out = tmp_path / 'out'
  _good(*flags, f'--output={out}', '--merges=1000', '--validation_fraction=0.3')
  bpe = tokenization.load(out)
  assert bpe.merges == 1000
  tokens = shards.Tokens(out, 'validation')
  first = tokens.read(0, int(tokens.document_ends[0]) - 1)
  row = next(
    r for r in shards.read_documents(out) if r['split'] == 'validation'
  )
  raw = pathlib.Path(row['source']).read_text('utf-8-sig')
  cleaned = cleaning.clean(cleaning.paragraphs(raw)).lower()
  assert bpe.decode(first) == cleaned
  assert bpe.unknown_id not in first
