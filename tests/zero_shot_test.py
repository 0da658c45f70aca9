"""Zero-shot scores against the plain computation, and the whole command."""

import csv
import functools
import itertools
import json
import math
import pathlib
import shutil
import xml.etree.ElementTree as ElementTree

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import sklearn.metrics
from flax import linen as nn
from hypothesis import given, settings, strategies as st

from gpt1_jax import storage
from gpt1_jax.corpus import tokenization
from gpt1_jax.model import gpt
from gpt1_jax.reporting import figures
from gpt1_jax.settings import GPTConfig
from gpt1_jax.tasks import batches as batches_lib
from gpt1_jax.tasks.readers import rows
from gpt1_jax.tasks.zero_shot import (
  decisions,
  evaluation,
  likelihood,
  questions as questions_lib,
  results,
  winograd,
)
from gpt1_jax.train import (
  checkpoint,
  losses,
  run as run_lib,
  sharding,
  step as step_lib,
)
from tests.support import (
  commands,
  finetuning,
  toy_tokenizers,
  vocabulary,
  winograd_files,
)
from tests.support.refusals import assert_refused

MODEL = {**finetuning.MODEL, 'n_layer': 2, 'n_ctx': 48, 'embd_pdrop': 0.0}
STEPS = (3, 6)


@pytest.fixture(scope='module')
def run(tmp_path_factory):
  """A run of two checkpoints, nothing learned but nothing alike either."""
  from pydoc_data import topics

  workdir = tmp_path_factory.mktemp('runs') / 'tiny'
  words = vocabulary.train_bpe(list(topics.topics.values())[:20], 100)
  config = GPTConfig(**MODEL, vocab_size=words.vocab_size, n_special=0)
  meta = checkpoint.CheckpointMeta(config, words.fingerprint)
  facts = {**meta.as_json(), 'parameters': 1}
  settings = {'model': {'n_ctx': 48}, 'data': {'batch_size': 5}}
  run_lib.start(str(workdir), 'pretrain', settings, facts)
  words.save(workdir / 'tokenizer')
  checkpoints = checkpoint.Checkpoints(str(workdir), keep=5, keep_best=False)
  tokens_BT = jnp.zeros((1, 8), jnp.int32)
  for step in STEPS:
    key = jax.random.key(step)
    variables = gpt.GPT(config).init(key, tokens_BT, dropout_key=None)
    params = {'gpt': jax.tree.map(lambda x: 6 * x, nn.unbox(variables))}
    params = {'gpt': params['gpt']['params']}
    state = step_lib.TrainState(jnp.int32(step), params, ())
    checkpoints.save(step, state, meta)
  checkpoints.close()
  return workdir


@pytest.fixture(scope='module')
def folder(tmp_path_factory):
  """Every task in the layout of its archive; the texts are our own."""
  path = tmp_path_factory.mktemp('tasks')
  rng = np.random.default_rng(0)
  nouns = ['method', 'class', 'table', 'object', 'module', 'number', 'error']

  def text(count):
    return ' '.join(rng.choice(nouns, count))

  for split, count in (('train', 30), ('dev', 17)):
    lines = [
      f'x\t{int(rng.integers(2))}\t\t{text(2 + i % 9)}.\n' for i in range(count)
    ]
    winograd_files.write(path, f'CoLA/{split}.tsv', ''.join(lines))
  lines = [f'{text(1 + i % 7)} \t{i % 3 % 2}\n' for i in range(13)]
  head = 'sentence\tlabel\n'
  winograd_files.write(path, 'SST-2/dev.tsv', head + ''.join(lines))
  for level, length in (('middle', 20), ('high', 200)):
    for number in (1, 2):
      article = {
        'article': text(length),
        'questions': [f'what is {text(2)} ?', f'{text(2)} is _ .'],
        'options': [[text(1 + i) for i in range(4)] for _ in range(2)],
        'answers': ['B', 'D'],
      }
      for split in ('dev', 'test'):
        name = f'RACE/{split}/{level}/{number}.txt'
        winograd_files.write(path, name, json.dumps(article))
  (path / 'StoryCloze').mkdir()
  name = 'cloze_test_val__spring2016 - cloze_test_ALL_val.csv'
  with (path / 'StoryCloze' / name).open('w', newline='') as file:
    table = csv.writer(file)
    table.writerow(['InputStoryid', *rows.STORY, 'AnswerRightEnding'])
    for i in range(20):
      table.writerow([i, *(f'{text(3)}.' for _ in range(6)), 1 + i % 2])
  winograd_files.write(path, 'DPRD/test.c.txt', winograd_files.BLOCKS)
  schemas = [
    winograd_files.SCHEMA.format(rest=f'had {text(n)}.', letter='AB'[n % 2])
    for n in range(1, 6)
  ]
  xml = winograd_files.XML.format(''.join(schemas))
  winograd_files.write(path, 'WSC273/WSCollection.xml', xml)
  return path


def load(run, step):
  params, meta, _ = checkpoint.read(str(run), step)
  return params['gpt'], gpt.GPT(meta.model)


def questions_of(run, folder, names=()):
  encode = tokenization.load(run).encode
  return evaluation.read_questions(str(folder), names, encode, MODEL['n_ctx'])


def candidates_of(questions):
  return [candidate for part in questions for candidate in part.candidates]


def batches_of(questions, batch_size=8, widths=likelihood.WIDTHS):
  return batches_lib.Batches(
    likelihood.lay_out(candidates_of(questions), MODEL['n_ctx']),
    batches_lib.BatchSettings(batch_size, lengths=widths),
  )


def scored(run, questions, batch_size=8, widths=likelihood.WIDTHS):
  params, model = load(run, STEPS[0])
  batches = batches_of(questions, batch_size, widths)
  mesh = sharding.make_mesh(jax.devices(), data=-1, fsdp=1, tensor=1)
  with sharding.use(mesh):
    score = likelihood.score_fn(model, mesh)
    return score(params, batches, lambda *_: None)


@functools.cache
def full_logits(model):
  """One compiled function; what follows the text cannot change it."""

  @jax.jit
  def apply(params, tokens_BT):
    h_BTD, embed_VD = model.apply(
      {'params': params}, tokens_BT, dropout_key=None
    )
    return gpt.logits(h_BTD, embed_VD)[0]

  return apply


def log_probs_of(model, params, tokens):
  """float64 [T, V]: log-probabilities of the token after each position."""
  padded = np.zeros((1, MODEL['n_ctx']), np.int32)
  padded[0, : len(tokens)] = tokens
  logits = np.asarray(full_logits(model)(params, padded), np.float64)
  logits = logits[: len(tokens)]
  logits -= logits.max(axis=1, keepdims=True)
  return logits - np.log(np.exp(logits).sum(axis=1, keepdims=True))


def test_log_probabilities_are_those_of_the_full_logits(run, folder):
  questions = questions_of(run, folder)
  sums = scored(run, questions)
  params, model = load(run, STEPS[0])
  for candidate, found in zip(candidates_of(questions), sums, strict=True):
    tokens, first = candidate.tokens, candidate.first_scored
    log_probs = log_probs_of(model, params, tokens)
    expected = [log_probs[t - 1, tokens[t]] for t in range(first, len(tokens))]
    assert candidate.num_scored == len(expected)
    assert found / max(len(expected), 1) == pytest.approx(
      np.mean(expected) if expected else 0.0, abs=1e-5
    )


def test_scores_do_not_depend_on_batches(run, folder):
  questions = questions_of(run, folder)
  one = scored(run, questions)
  counts = [max(c.num_scored, 1) for c in candidates_of(questions)]
  expected = decisions.decide(questions, one)
  for batch_size, widths in ((24, likelihood.WIDTHS), (8, ()), (64, (20, 30))):
    other = scored(run, questions, batch_size, widths)
    np.testing.assert_allclose(other / counts, one / counts, atol=1e-5, rtol=0)
    found = decisions.decide(questions, other)
    for a, b in zip(found, expected, strict=True):
      assert (a.task, a.score) == (b.task, b.score)
      np.testing.assert_array_equal(a.predictions, b.predictions)


def test_every_candidate_is_in_one_batch(run, folder):
  questions = questions_of(run, folder)
  batches = batches_of(questions)
  seen = {}
  for batch in map(batches.batch, range(batches.steps_per_epoch)):
    for row, index in enumerate(batch['index']):
      if index < 0:
        assert not batch['lm_weights'][row].any()
        continue
      assert index not in seen
      seen[index] = batch['lm_weights'][row, 0], batch['tokens'][row, 0]
  candidates = candidates_of(questions)
  assert sorted(seen) == list(range(len(candidates)))
  for index, (weights, tokens) in seen.items():
    expected, first = candidates[index].tokens, candidates[index].first_scored
    np.testing.assert_array_equal(tokens[: len(expected)], expected)
    assert np.flatnonzero(weights).tolist() == [*range(first, len(expected))]
    assert first > 0


def test_a_word_of_several_tokens_is_a_chain(run, folder):
  """P(positive) step by step: each token given those before it."""
  (questions,) = questions_of(run, folder, ['sst2'])
  sums = scored(run, [questions])
  params, model = load(run, STEPS[0])
  words = tokenization.load(run)
  text = (folder / 'SST-2' / 'dev.tsv').read_text().splitlines()[3]
  before = words.encode(text.split('\t')[0] + ' very')
  (result,) = decisions.decide([questions], sums)
  for choice, word in enumerate(('negative', 'positive')):
    pieces = words.encode(word)
    assert len(pieces) > 2
    whole = words.encode(f'{text.split(chr(9))[0]} very {word}')
    assert before + pieces == whole == questions.candidates[4 + choice].tokens
    probability = 1.0
    for i, piece in enumerate(pieces):
      context = before + pieces[:i]
      log_probs = log_probs_of(model, params, context)
      probability *= math.exp(log_probs[-1, piece])
    assert sums[4 + choice] == pytest.approx(math.log(probability), abs=1e-4)
    assert result.compared[2, choice] == sums[4 + choice]
  np.testing.assert_array_equal(
    result.predictions, result.compared[:, 1] > result.compared[:, 0]
  )


def matthews_at(threshold, scores, labels):
  guesses = [int(x >= threshold) for x in scores]
  if len(set(guesses)) < 2 or len(set(labels)) < 2:
    return 0.0
  return sklearn.metrics.matthews_corrcoef(labels, guesses)


SCORE = st.integers(-8, -1).map(float) | st.just(-math.inf)


@settings(max_examples=150, deadline=None)
@given(st.lists(st.tuples(SCORE, st.integers(0, 1)), min_size=1, max_size=12))
def test_the_threshold_is_the_best_one(pairs):
  scores, labels = (np.array(x) for x in zip(*pairs, strict=True))
  threshold = decisions.choose_threshold(scores, labels)
  assert math.isfinite(threshold)
  finite = sorted({x for x in scores if math.isfinite(x)})
  cuts = [*finite, *((a + b) / 2 for a, b in itertools.pairwise(finite))]
  if cuts:
    best = max(matthews_at(cut, scores, labels) for cut in cuts)
    found = matthews_at(threshold, scores, labels)
    assert found == pytest.approx(best, abs=1e-9)


def test_the_threshold_lies_between_two_scores():
  between = decisions.choose_threshold(
    np.array([-1.0, -4.0, -2.0, -3.0]), np.array([1, 0, 1, 0])
  )
  assert between == -2.5
  tight = np.array([-1.0, np.nextafter(-1.0, 0.0)])
  assert decisions.choose_threshold(tight, np.array([0, 1])) == tight[1]


def test_dev_has_no_say_in_the_threshold(run, folder):
  questions = questions_of(run, folder, ['cola'])
  assert [part.split for part in questions] == ['train', 'dev']
  sums = scored(run, questions)
  train, dev = decisions.decide(questions, sums)
  means = sums / [c.num_scored for c in candidates_of(questions)]
  threshold = decisions.choose_threshold(means[:30], questions[0].labels)
  assert (
    train.diagnostics['threshold'] == dev.diagnostics['threshold'] == threshold
  )
  sums[30:] = np.linspace(-500, -1, 17)
  questions[1].labels[:] = 1 - questions[1].labels
  _, other = decisions.decide(questions, sums)
  assert other.diagnostics['threshold'] == threshold
  assert other.score != dev.score


def digits(count, first=0):
  return ' '.join(str((first + i) % 10) for i in range(count))


def laid_out(questions):
  return [(c.tokens, c.first_scored) for c in questions.candidates]


def test_long_contexts_lose_their_front(tmp_path):
  article = {
    'article': digits(10),
    'questions': ['7 7'],
    'options': [['1', '2 2 2', '3 3', '']],
    'answers': ['B'],
  }
  for level in ('middle', 'high'):
    winograd_files.write(tmp_path, f'test/{level}/1.txt', json.dumps(article))
  encode = toy_tokenizers.DigitTokenizer().encode
  for n_ctx, context in ((9, [6, 7, 8, 9, 7, 7]), (4, [7])):
    middle, high = questions_lib.read('race', str(tmp_path), encode, n_ctx)
    assert (middle.task, high.task) == ('race_middle', 'race_high')
    assert (middle.split, middle.num_cut, middle.labels.tolist()) == (
      'test',
      1,
      [1],
    )
    assert laid_out(middle) == [
      ([*context, *answer], len(context))
      for answer in ([1], [2, 2, 2], [3, 3], [])
    ]
  # Longer than the context: the answer's end goes, a token before it stays.
  middle, _ = questions_lib.read('race', str(tmp_path), encode, 3)
  assert laid_out(middle)[1] == ([7, 2, 2], 1)
  middle, _ = questions_lib.read('race', str(tmp_path), encode, 99)
  assert middle.num_cut == 0
  assert laid_out(middle)[0] == ([*range(10), 7, 7, 1], 12)
  # Nothing to score is never the answer.
  sums = np.array([-9.0, -9.0, -9.0, 0.0] * 2)
  answers = decisions.decide([middle, middle], sums)
  assert answers[0].predictions.tolist() == [1]
  assert answers[0].diagnostics['unscored'] == 1


def test_long_sentences_lose_their_end(tmp_path):
  for split in ('train', 'dev'):
    lines = f's\t1\t\t{digits(9)}\ns\t0\t\t5\n'
    winograd_files.write(tmp_path, f'CoLA/{split}.tsv', lines)
  encode = toy_tokenizers.DigitTokenizer().encode
  for part in questions_lib.read('cola', str(tmp_path), encode, 4):
    assert laid_out(part) == [([0, 1, 2, 3], 1), ([5], 1)]
    assert part.num_cut == 1


def test_the_rest_begins_after_the_referent(tmp_path):
  words = toy_tokenizers.WordTokenizer()
  seen = []

  def encode(text):
    seen.append(text)
    return words.encode(text)

  path = winograd_files.write(tmp_path, 'test.c.txt', winograd_files.BLOCKS)
  (questions,) = questions_lib.read('dprd', path, encode, 64)
  rest = words.encode('had brought flour.')
  for choice, referent in enumerate(('The baker', 'the miller')):
    whole = (
      f'The baker thanked the miller because {referent} had brought flour.'
    )
    sequence, first = laid_out(questions)[choice]
    assert sequence == words.encode(whole)
    assert sequence[first:] == rest


def test_punctuation_after_the_referent_is_scored(run, tmp_path):
  words = tokenization.load(run)
  schema = winograd_files.SCHEMA.format(rest="'s rim bent.", letter='A')
  path = winograd_files.write(
    tmp_path, 'WSCollection.xml', winograd_files.XML.format(schema)
  )
  (questions,) = questions_lib.read('wsc273', path, words.encode, 99)
  for sequence, first in laid_out(questions):
    head = words.decode(sequence[:first])
    assert head.endswith(('because the lid', 'because the pot'))
    assert words.decode(sequence).endswith("'s rim bent.")


def test_real_cola_and_sst2(shared_data):
  path = str(shared_data / 'tasks' / 'glue')
  encode = toy_tokenizers.WordTokenizer().encode
  train, dev = questions_lib.read('cola', path, encode, 512)
  assert (len(train.labels), len(dev.labels)) == (8551, 1043)
  assert {c.first_scored for c in train.candidates} == {1}
  last = (shared_data / 'tasks/glue/CoLA/dev.tsv').read_text().splitlines()[-1]
  assert dev.candidates[-1].tokens == encode(last.split('\t')[3])
  (sst2,) = questions_lib.read('sst2', path, encode, 512)
  assert (len(sst2.labels), sst2.split, sst2.num_cut) == (872, 'dev', 0)
  with assert_refused(f' in {path}, '):
    questions_lib.read('race', path, encode, 512)


def test_real_rows_from_the_archives(shared_data, run):
  path = shared_data / 'tasks' / 'archives'
  questions = questions_of(run, path)
  counts = {(part.task, part.split): len(part.labels) for part in questions}
  assert set(counts) >= {
    ('cola', 'train'),
    ('cola', 'dev'),
    ('sst2', 'dev'),
    ('race_middle', 'test'),
    ('race_high', 'test'),
  }
  sums = scored(run, questions)
  answers = {part.task: part for part in decisions.decide(questions, sums)}
  race = answers['race']
  halves = counts['race_middle', 'test'] + counts['race_high', 'test']
  assert len(race.predictions) == halves
  assert race.compared.shape == (halves, 4)


def check_answers(workdir, row):
  """The score of a row again, from its file of answers and by scikit-learn."""
  path = workdir / 'zero_shot' / f'{row["task"]}-{row["step"]}.tsv'
  header, *lines = (line.split('\t') for line in path.read_text().splitlines())
  assert header == ['index', 'label', 'prediction', 'scores']
  assert [int(line[0]) for line in lines] == list(range(row['examples']))
  labels, guesses = ([int(line[i]) for line in lines] for i in (1, 2))
  compared = [[float(x) for x in line[3].split()] for line in lines]
  if row['task'] == 'cola':
    assert {threshold for _, threshold in compared} == {row['threshold']}
    assert guesses == [int(mean >= bound) for mean, bound in compared]
    found = sklearn.metrics.matthews_corrcoef(labels, guesses)
  else:
    assert guesses == [values.index(max(values)) for values in compared]
    found = sklearn.metrics.accuracy_score(labels, guesses)
  assert row['score'] == pytest.approx(found, abs=1e-12)


NAMES = sorted(questions_lib.TASKS)


def copied(run, tmp_path):
  return pathlib.Path(shutil.copytree(run, tmp_path / 'run'))


@pytest.mark.slow
def test_the_command(run, folder, tmp_path):
  workdir = copied(run, tmp_path)
  base = (
    f'--workdir={workdir}',
    '--suite=zero_shot',
    f'--tasks_path={folder}',
    '--batch_size=8',
  )
  printed = commands.succeed('evaluate', *base, '--series')
  found = results.read_rows(workdir)
  assert [(row['step'], row['task']) for row in found] == [
    (step, name) for step in STEPS for name in NAMES
  ]
  assert sorted(printed.splitlines()) == sorted(map(json.dumps, found))
  for row in found:
    check_answers(workdir, row)
    assert row['tokens_seen'] == row['step'] * 5 * 48
    task = questions_lib.TASKS[row['task']]
    assert row['metric'] == task.metric
    if row['task'] == 'wsc273':
      assert row['normalised'] is row['reference'] is None
    else:
      span = row['reference'] - row['chance']
      assert row['normalised'] * span + row['chance'] == pytest.approx(
        row['score']
      )
  # The threshold again, from the answers to the training set.
  table = (workdir / 'zero_shot' / 'cola_train-3.tsv').read_text()
  cells = [line.split('\t') for line in table.splitlines()[1:]]
  means = np.array([float(cell[3].split()[0]) for cell in cells])
  labels = np.array([int(cell[1]) for cell in cells])
  (cola,) = (r for r in found if (r['step'], r['task']) == (3, 'cola'))
  assert decisions.choose_threshold(means, labels) == cola['threshold']
  # Another run with one task and one checkpoint: the other rows stay.
  (workdir / 'zero_shot.jsonl').write_text(
    ''.join(json.dumps({**row, 'score': 9.0}) + '\n' for row in reversed(found))
  )
  commands.succeed('evaluate', *base, '--tasks=sst2,dprd', '--checkpoint=3')
  again = results.read_rows(workdir)
  assert [(r['step'], r['task']) for r in again] == [
    (r['step'], r['task']) for r in found
  ]
  for old, new in zip(found, again, strict=True):
    fresh = new['step'] == 3 and new['task'] in ('sst2', 'dprd')
    assert new == (old if fresh else {**old, 'score': 9.0})
  root = ElementTree.parse(workdir / 'zero_shot.svg').getroot()
  assert root.tag == '{http://www.w3.org/2000/svg}svg'
  assert not list(workdir.rglob('*.tmp'))


def test_a_series_is_compiled_once(run, folder, tmp_path, monkeypatch):
  workdir = copied(run, tmp_path)
  traced = []
  whole = losses.token_log_probs

  def counted(h_BTD, *args):
    traced.append(h_BTD.shape)
    return whole(h_BTD, *args)

  monkeypatch.setattr(losses, 'token_log_probs', counted)
  opened = []
  read = checkpoint.read
  monkeypatch.setattr(
    checkpoint, 'read', lambda *a: opened.append(a[1]) or read(*a)
  )
  evaluation.evaluate(str(workdir), str(folder), [], STEPS, 1)
  assert sorted(opened) == sorted(STEPS)
  assert len(traced) == len(set(traced)) <= len(likelihood.WIDTHS)


def test_a_run_that_was_not_pretrained_here(run, tmp_path):
  workdir = copied(run, tmp_path)
  facts = run_lib.load(str(workdir))
  facts |= {'command': 'convert', 'config': {}}
  storage.write_json(workdir / 'config.json', facts)
  assert evaluation.tokens_seen(str(workdir), 3) is None


def test_missing_tasks_are_named(run, folder, tmp_path, capsys):
  base = tmp_path / 'tasks'
  base.mkdir()
  (base / 'SST-2').symlink_to(folder / 'SST-2')
  (base / 'RACE').mkdir()
  for split in ('dev', 'test'):
    winograd_files.write(base, f'RACE/{split}/x', '')
    (base / 'RACE' / split / 'high').symlink_to(folder / f'RACE/{split}/high')
  questions = questions_of(run, base)
  assert [part.task for part in questions] == ['sst2', 'race_high']
  said = capsys.readouterr().err.splitlines()
  lines = [line for line in said if line.startswith('not run: ')]
  assert len(lines) == len(set(lines)) == 5
  for name in ('cola', 'race_middle', 'story_cloze', 'dprd', 'wsc273'):
    assert any(f'of task {name}: looked for' in line for line in lines)
  with assert_refused('no dev file of task race_middle'):
    questions_of(run, base, ['race'])
  assert [p.task for p in questions_of(run, folder, ['race', 'race_high'])] == [
    'race_middle',
    'race_high',
  ]


@pytest.mark.slow
def test_errors_are_one_line(run, folder):
  words = (f'--workdir={run}', '--suite=zero_shot')
  path = f'--tasks_path={folder}'
  for args, expected in (
    (words, '--suite=zero_shot requires --tasks_path'),
    (
      (*words, path, '--series', '--checkpoint=3'),
      'remove --checkpoint',
    ),
    ((*words, path, '--data=x'), '--data requires --suite=perplexity'),
    ((f'--workdir={run}', path), '--tasks_path requires --suite=zero_shot'),
  ):
    assert expected in commands.fail('evaluate', *args)


@pytest.mark.parametrize(
  ('change', 'names', 'expected'),
  [
    (
      None,
      ['squad'],
      "--tasks: unknown zero-shot task 'squad'; choose",
    ),
    (None, ['snli'], "unknown zero-shot task 'snli'"),
    ('nowhere', [], 'nowhere: no such file or folder; set --tasks_path'),
    ('empty', [], 'no zero-shot task found here; set --tasks_path'),
    ('empty', ['cola'], 'no train file of task cola: looked for'),
    ('damaged', [], "label '7' in column 'label'"),
    ('file.txt', [], 'neither a folder nor a zip or tar; set --tasks_path'),
  ],
)
def test_errors(run, folder, tmp_path, change, names, expected):
  (tmp_path / 'empty').mkdir()
  (tmp_path / 'file.txt').write_text('x')
  bad = 'sentence\tlabel\ngood\t7\n'
  winograd_files.write(tmp_path / 'damaged', 'SST-2/dev.tsv', bad)
  path = tmp_path / change if change else folder
  with assert_refused(expected):
    questions_of(run, path, names)


def test_a_checkpoint_that_has_diverged(run, folder):
  questions = questions_of(run, folder, ['sst2'])
  batches = batches_of(questions)
  params, model = load(run, 3)
  params = jax.tree.map(lambda x: np.full_like(x, np.nan), params)
  mesh = sharding.make_mesh(jax.devices(), data=-1, fsdp=1, tensor=1)
  with sharding.use(mesh), assert_refused('not finite'):
    likelihood.score_fn(model, mesh)(params, batches, lambda *_: None)


def test_damaged_rows_are_named(tmp_path):
  assert results.read_rows(tmp_path) == []
  (tmp_path / 'zero_shot.jsonl').write_text('{"step": 1}\n{"st\n')
  with assert_refused('zero_shot.jsonl:2: damaged'):
    results.read_rows(tmp_path)


def decided(task, labels, sums, skipped=()):
  """Decides questions with two candidates each of one scored token."""
  candidate = questions_lib.Candidate([1, 2], first_scored=1)
  part = questions_lib.Questions(
    task, 'test', [candidate] * len(sums), np.array(labels), 0, skipped
  )
  (result,) = decisions.decide([part], np.array(sums))
  return result


def test_ties_are_counted():
  result = decided('dprd', [1, 1], [-4.0, -4.0, -4.0, -2.0], ('x',))
  assert result.predictions.tolist() == [0, 1]
  expected = {'cut': 0, 'unscored': 0, 'ties': 1, 'odd': 1}
  assert dict(result.diagnostics) == expected


def test_the_order_of_the_examples_is_told_apart_from_the_border():
  """Every sentence is called positive, positive ones with a wider margin."""
  sums = [x for margin in (1, 3, 2, 1.5) for x in (-9.0, margin - 9.0)]
  result = decided('sst2', [0, 1, 0, 1], sums)
  assert result.predictions.tolist() == [1] * 4
  assert result.score == 0.5
  assert result.diagnostics['auc'] == 3 / 4


def test_the_plot_has_a_line_a_task():
  made = [
    {'step': step, 'task': name, 'normalised': value}
    for step in (1, 2)
    for name, value in (
      ('cola', 0.1 * step),
      ('race', -0.1),
      ('race_high', 0.5),
      ('wsc273', None),
    )
  ]
  for chosen in (made, made[:4], [], made[3:4]):
    lines = figures.zero_shot_lines(chosen)
    svg = figures.draw_zero_shot(lines, file=True)
    ElementTree.fromstring(svg)
    assert svg.startswith('<svg')
    assert ('>cola<' in svg) == (len(chosen) > 1)
    assert '>wsc273<' not in svg
    assert '>race_high<' not in svg


def test_names_are_those_that_have_readers():
  assert set(winograd.TASKS) < set(questions_lib.TASKS)
