"""This project's candidates; each function returns a warmed-up repetition."""

import dataclasses
import functools
import pathlib
import shutil
import tempfile
import time
from collections.abc import Callable, Sequence

import jax
import numpy as np

from benchmarks.case import Batch, Case, finetune_config
from benchmarks.process import Repeat, timed
from gpt1_jax.corpus import local_engine, tokenization, workers
from gpt1_jax.model import continuous, decoding, models, sampling
from gpt1_jax.tasks import initialization, table
from gpt1_jax.train import pretraining, program, sharding, step

_VERSIONS = {'jax': jax.__version__}
_NUM_STEPS = 1_000_000  # length of the learning-rate schedule


def train(case: Case) -> tuple[Repeat, dict[str, str]]:
  """Trains on random tokens; counts tokens."""
  settings = case.pretrain_config()
  model = pretraining.model_config(settings, case.vocab_size)
  mesh = _one_device()
  built = pretraining.build(settings, model, mesh, _NUM_STEPS)
  tokens = case.random_tokens(model.n_ctx)
  weights = np.ones(tokens.shape, np.float32)
  weights[:, 0] = 0
  batch = {'tokens': tokens, 'lm_weights': weights}
  repeat = _updates(built, [batch] * case.steps)
  return timed(lambda: repeat() * tokens.size), _VERSIONS


def finetune(case: Case) -> tuple[Repeat, dict[str, str]]:
  """Fine-tunes on batches from a file; counts examples."""
  settings = finetune_config(case.task)
  task = table.resolve(settings.task)
  model = dataclasses.replace(
    pretraining.model_config(case.pretrain_config(), case.vocab_size),
    n_special=3,
  )
  network = models.new(model)
  head = initialization.new_head(task, settings.head)
  objective = program.Objective(
    network,
    functools.partial(initialization.init_params, network, head),
    step.finetune_loss(
      network, head, settings.head.lm_coef, settings.head.lm_reduction
    ),
  )
  built = program.build(
    objective,
    settings.optim,
    _NUM_STEPS,
    _one_device(),
    settings.train,
    settings.mesh,
  )
  batches = case.read_batches()
  repeat = _updates(built, batches)
  examples = sum(float(batch['example_weight'].sum()) for batch in batches)
  return timed(lambda: repeat() / len(batches) * examples), _VERSIONS


def _one_device() -> jax.sharding.Mesh:
  return sharding.make_mesh(jax.devices()[:1], data=1, fsdp=1, tensor=1)


def _updates(
  built: program.Program, batches: Sequence[Batch]
) -> Callable[[], float]:
  """Returns a repetition that applies one update per batch; counts updates."""
  with sharding.use(built.mesh):
    seed = step.place_seed(0, built.mesh)
    state = built.new_state(seed)

  def repeat() -> float:
    nonlocal state
    with sharding.use(built.mesh):
      for batch in batches:
        placed = sharding.put_batch(batch, built.mesh)
        state, metrics = built.train_step(state, placed, seed)
        jax.block_until_ready(metrics)
    return len(batches)

  repeat()
  return repeat


def generate(case: Case) -> tuple[Repeat, dict[str, str]]:
  """Generates greedily with the cache, one prompt per row; counts tokens."""
  model = pretraining.model_config(case.pretrain_config(), case.vocab_size)
  built = pretraining.build(
    case.pretrain_config(), model, _one_device(), _NUM_STEPS
  )
  with sharding.use(built.mesh):
    seed = step.place_seed(0, built.mesh)
    params = built.new_state(seed).params['gpt']
  prompts = case.random_tokens(case.prompt).tolist()
  how = sampling.Sampling(greedy=True, temperature=1.0, top_k=0, top_p=1.0)
  network = decoding.prepared(params, model)
  room = case.prompt + case.tokens

  def repeat() -> float:
    decoder = continuous.Decoder(*network)
    texts = [
      continuous.Text(list(prompt), how, seed=0, room=room)
      for prompt in prompts
    ]
    for _ in range(case.tokens):
      decoder.step(texts)
    return len(texts) * case.tokens

  repeat()
  return timed(repeat), _VERSIONS


def encode(case: Case) -> tuple[Repeat, dict[str, str]]:
  """Encodes cleaned text as `prepare` does, into shards; counts bytes."""
  spool = pathlib.Path(case.spool)
  size = sum(path.stat().st_size for path in spool.glob('*.clean'))

  def repeat() -> tuple[float, float]:
    with (
      tempfile.TemporaryDirectory() as folder,
      workers.Workers(case.cores) as pool,
    ):
      directory = pathlib.Path(folder) / 'out'
      directory.mkdir()
      tokenization.load(case.tokenizer).save(directory)
      copy = shutil.copytree(spool, pathlib.Path(folder) / 'spool')
      # Starts fresh workers, whose word caches are empty.
      list(pool.map(time.sleep, [0.1] * 4 * case.cores))
      start = time.perf_counter()
      local_engine.encode(pool, copy, directory, 10**8, lambda *_: None)
      return size, time.perf_counter() - start

  return repeat, _VERSIONS
