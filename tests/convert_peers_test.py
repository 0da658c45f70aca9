"""Folders of `convert` load in `transformers`, and the other way round.

Logits agree to 2e-5 in float32, token ids exactly. Skips without the peers.
"""

import pathlib
import pickle
import shutil
import warnings

import jax.numpy as jnp
import numpy as np
import pytest

from gpt1_jax.corpus import cleaning, sentencepiece_tokenizer, tokenization
from gpt1_jax.errors import UserError
from gpt1_jax.interop import conversion, huggingface
from gpt1_jax.model import gpt
from gpt1_jax.train import checkpoint
from tests.support import released, transformers_folder

pytestmark = [pytest.mark.peers, pytest.mark.slow]
NO_WEIGHTS = shutil.ignore_patterns('*.safetensors')
NEEDED = "needs the peers: pip install -e '.[test,openai,peers]'"
torch = pytest.importorskip('torch', reason=NEEDED)
pytest.importorskip('spacy', reason=NEEDED)
with warnings.catch_warnings():  # about its own code
  warnings.simplefilter('ignore')
  transformers = pytest.importorskip('transformers', reason=NEEDED)


@pytest.fixture(scope='module')
def novel(shared_data):
  path = sorted((shared_data / 'books').glob('*.txt'))[7]
  return cleaning.paragraphs(path.read_text('utf-8-sig'))


def our_logits(workdir, tokens_BT):
  params, meta, _ = checkpoint.read(str(workdir))
  h_BTD, embed_VD = gpt.GPT(meta.model).apply(
    {'params': params['gpt']}, jnp.asarray(tokens_BT), dropout_key=None
  )
  return np.asarray(gpt.logits(h_BTD, embed_VD[: meta.model.token_rows]))


def assert_same_logits(workdir, model, tokens_BT):
  with torch.no_grad():
    theirs = model(torch.from_numpy(tokens_BT).long()).logits.numpy()
  ours = our_logits(workdir, tokens_BT)
  assert ours.shape == theirs.shape
  np.testing.assert_allclose(ours, theirs, rtol=0, atol=2e-5)


def windows(ids, count, length):
  return np.array(ids[: count * length], np.int32).reshape(count, length)


@pytest.mark.parametrize('n_special', [0, 3])
def test_a_run_of_sentencepiece(novel, tmp_path, n_special):
  words = sentencepiece_tokenizer.count_words(
    [cleaning.clean(novel[: len(novel) // 2])]
  )
  bpe = sentencepiece_tokenizer.train(words, 3000)
  released.new_run(
    tmp_path / 'run', bpe, std=0.1, n_special=n_special, **released.SMALL
  )
  model, tokenizer = transformers_folder.write_and_load(
    tmp_path / 'run', tmp_path / 'hf'
  )
  odd = '\n\n<unk> <newline> <document> <|start|> 😀 漢字\ncan\u2019t — stop\n'
  ids = bpe.encode(novel + odd)
  assert bpe.unknown_id in ids
  assert bpe.newline_id in ids
  assert tokenizer(novel + odd, verbose=False)['input_ids'] == ids
  known = bpe.encode(novel[:9000])  # it was trained on them
  assert bpe.unknown_id not in known
  assert tokenizer.decode(known) == bpe.decode(known)
  tokens = windows(ids[1000:], 3, 48)
  tokens[0, :n_special] = range(bpe.vocab_size, bpe.vocab_size + n_special)
  assert_same_logits(tmp_path / 'run', model, tokens)


def test_a_run_of_the_original_vocabulary(shared_data, novel, tmp_path):
  bpe = tokenization.load(f'openai:{shared_data / "vocab"}')
  released.new_run(tmp_path / 'run', bpe, std=0.1, **released.SMALL)
  model, tokenizer = transformers_folder.write_and_load(
    tmp_path / 'run', tmp_path / 'hf'
  )
  ids = bpe.encode(novel)
  assert tokenizer(novel, verbose=False)['input_ids'] == ids
  assert tokenizer('the president is')['input_ids'] == [481, 4735, 544]
  assert tokenizer.decode(ids[:500]) == bpe.decode(ids[:500])
  assert_same_logits(tmp_path / 'run', model, windows(ids, 2, 48))


def test_the_full_shape(shared_data, tmp_path):
  bpe = tokenization.load(f'openai:{shared_data / "vocab"}')
  shape = {'n_layer': 12, 'n_head': 12, 'n_embd': 768, 'n_ctx': 512}
  released.new_run(tmp_path / 'run', bpe, std=0.02, **shape)
  model, _ = transformers_folder.write_and_load(
    tmp_path / 'run', tmp_path / 'hf'
  )
  assert sum(p.numel() for p in model.parameters()) == 116_534_784
  draw = np.random.default_rng(1)
  tokens = draw.integers(0, 40_478, (1, 64), np.int32)
  assert_same_logits(tmp_path / 'run', model, tokens)


@pytest.fixture(scope='module')
def theirs(tmp_path_factory):
  """A folder that `transformers` wrote, with random weights."""
  folder = tmp_path_factory.mktemp('theirs')
  released.write(folder)
  for file in folder.glob('params_*'):
    file.unlink()
  rows = released.rows(folder)
  torch.manual_seed(0)
  config = transformers.OpenAIGPTConfig(
    vocab_size=rows, n_positions=16, n_embd=32, n_layer=2, n_head=4
  )
  model = transformers.OpenAIGPTLMHeadModel(config)
  model.save_pretrained(folder)
  return folder, model.eval()


def test_a_folder_of_theirs(theirs, tmp_path):
  folder, model = theirs
  read(tmp_path / 'run', folder)
  tokens = np.random.default_rng(0).integers(
    0, model.config.vocab_size, (3, 16), np.int32
  )
  assert_same_logits(tmp_path / 'run', model, tokens)


def test_a_bin_of_theirs(theirs, tmp_path):
  """With and without the prefix, and with the masks of older versions."""
  folder, model = theirs
  want, *_ = read(tmp_path / 'run', folder)
  state = dict(model.state_dict())
  bare = {k.removeprefix('transformer.'): v for k, v in state.items()}
  bare['h.0.attn.bias'] = torch.ones(1, 1, 16, 16, dtype=torch.bool)
  for i, weights in enumerate((state, bare)):
    other = tmp_path / f'bin{i}'
    shutil.copytree(folder, other, ignore=NO_WEIGHTS)
    torch.save(weights, other / 'pytorch_model.bin')
    params, *_ = read(tmp_path / f'run{i}', other)
    released.assert_same(params, want)
  for bad, message in (
    ({**bare, 'ln_f.weight': torch.ones(3)}, 'unknown: ln_f.weight'),
    (
      {**bare, 'tokens_embed.weight': bare['tokens_embed.weight'].double()},
      'tokens_embed.weight is float64, expected float32',
    ),
    ([1, 2], 'holds a list, expected tensors by name'),
  ):
    torch.save(bad, other / 'pytorch_model.bin')
    with pytest.raises(UserError, match=message) as caught:
      read(tmp_path / 'bad', other)
    assert 'pytorch_model.bin' in str(caught.value)


def test_no_pickle_is_executed(theirs, tmp_path):
  folder, _ = theirs
  other = tmp_path / 'hf'
  shutil.copytree(folder, other, ignore=NO_WEIGHTS)
  harm = {'tokens_embed.weight': released.Harm(tmp_path / 'harmed')}
  for write in (
    lambda path: torch.save(harm, path),
    lambda path: path.write_bytes(pickle.dumps(harm)),
  ):
    write(other / 'pytorch_model.bin')
    with pytest.raises(UserError, match='which is not executed'):
      read(tmp_path / 'bad', other)
  assert not (tmp_path / 'harmed').exists()


def read(workdir: pathlib.Path, folder: pathlib.Path):
  conversion.to_run(huggingface.read(folder), folder, workdir)
  return checkpoint.read(str(workdir))
