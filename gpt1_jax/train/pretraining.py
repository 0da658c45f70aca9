"""Pretrains a model on prepared shards (P §3.1, §4.1)."""

import dataclasses
from collections.abc import Callable

import jax
import jax.numpy as jnp

from gpt1_jax import config as config_lib
from gpt1_jax.config import PretrainConfig
from gpt1_jax.corpus import shards, tokenization, verification, windows
from gpt1_jax.corpus.metadata import SplitMeta
from gpt1_jax.model import models
from gpt1_jax.settings import ModelConfig
from gpt1_jax.train import (
  belonging,
  checkpoint,
  initial_weights,
  loop,
  optim,
  perplexity,
  profiling,
  program as program_lib,
  run as run_lib,
  samples,
  score_file,
  sharding,
  step,
)
from gpt1_jax.train.checkpoint import CheckpointMeta
from gpt1_jax.train.pace import Pace


@dataclasses.dataclass(frozen=True)
class Pretraining:
  """A configuration with its opened data and its uncompiled program.

  Attributes:
    held_out: counts of the validation split, from meta.json.
    prompt: the first tokens of the validation split.
  """

  config: PretrainConfig
  model: ModelConfig
  program: program_lib.Program
  tokenizer: tokenization.Tokenizer
  train: windows.Windows
  validation: windows.Windows
  held_out: SplitMeta
  prompt: list[int]
  data_fingerprint: str


def load(
  config: PretrainConfig,
  data: str,
  initial: checkpoint.Checkpoint | None = None,
) -> Pretraining:
  """Opens the shards and builds the program; writes nothing.

  Args:
    data: folder of the shards: config.data.path or a local copy.
    initial: weights of the folder config.init_from; None if it names none, or
      if the run has begun.

  Raises:
    UserError: the shards are missing or too short, the mesh does not divide the
      batch or the model, or the initial weights do not fit the model.
  """
  meta = shards.read_meta(data)
  words = belonging.shards_tokenizer(data, meta['tokenizer']['fingerprint'])
  model = model_config(config, words.vocab_size)
  mesh = sharding.make_mesh(jax.devices(), **config.mesh.axes)
  rows = sharding.host_rows(mesh, config.data.batch_size)
  tokens = {split: shards.Tokens(data, split) for split in shards.SPLITS}
  train, validation = (
    windows.Windows(
      tokens[split],
      n_ctx=model.n_ctx,
      batch_size=config.data.batch_size,
      cross_documents=config.data.cross_documents,
      seed=seed,
      rows=rows,
    )
    for split, seed in (('train', config.data.seed), ('validation', None))
  )
  num_steps = config.train.updates(train.num_windows / config.data.batch_size)
  program = build(config, model, mesh, num_steps)
  if initial:
    initial_weights.check(config, model, words, initial.meta)
    program = initial_weights.use(program, initial)
  elif config.init_from in config_lib.FROM_TEXT:
    program = initial_weights.count(program, tokens['train'], config.init_from)
  held_out = meta['splits']['validation']
  first = min(samples.PROMPT_TOKENS, held_out['tokens'])
  return Pretraining(
    config,
    model,
    program,
    words,
    train,
    validation,
    held_out,
    tokens['validation'].read(0, first).tolist(),
    verification.fingerprint(meta),
  )


def run(
  loaded: Pretraining,
  workdir: str,
  fork: run_lib.Fork | None = None,
  profile: profiling.Window | None = None,
) -> None:
  """Trains to the end, from the last checkpoint if any; writes scores.json.

  Args:
    fork: the run whose state is the initial state; None starts from scratch.

  Raises:
    UserError: the directory holds something else, or a configuration, data or
      checkpoint does not fit.
    RunError, Stopped: see `loop.run_training`.
  """
  described = dataclasses.replace(
    _describe(loaded, workdir, fork), profile=profile
  )
  header, program = described.header, loaded.program
  run_lib.changes(workdir, header['command'], header['config'])
  belonging.check(workdir, header)
  optim.warn_of_warmup(loaded.config.optim, program.num_steps)
  evaluate = perplexity.perplexity_fn(
    program.objective.model,
    program.mesh,
    loaded.validation,
    loaded.held_out,
  )
  with sharding.use(program.mesh):
    data = loop.TrainingData(
      loaded.train, evaluate, _about(loaded), _sampler(loaded)
    )
    state, scores = loop.run_training(program, described, data)
    scores = scores or evaluate(state.params)
  if jax.process_index() == 0:
    _write_scores(loaded, workdir, scores)


def _sampler(loaded: Pretraining) -> Callable[[step.Params], str] | None:
  """Returns a function that continues the start of the validation text."""
  num_tokens, tokenizer = loaded.config.train.sample_tokens, loaded.tokenizer
  if not num_tokens:
    return None
  program = loaded.program
  draw = samples.sampler(
    program.objective.model, program.mesh, loaded.prompt, num_tokens
  )
  return lambda params: tokenizer.decode(draw(params))


def _about(loaded: Pretraining) -> str:
  data, n_ctx = loaded.config.data, loaded.model.n_ctx
  return (
    f'{data.path}: {loaded.train.num_windows * n_ctx:,} tokens per epoch, '
    f'{data.batch_size} x {n_ctx} per update'
  )


def _describe(
  loaded: Pretraining, workdir: str, fork: run_lib.Fork | None
) -> run_lib.Run:
  model, train = loaded.model, loaded.config.train
  description: run_lib.RunDescription = {
    'model': dataclasses.asdict(model),
    'tokenizer_fingerprint': loaded.tokenizer.fingerprint,
    'data_fingerprint': loaded.data_fingerprint,
    'parameters': models.num_parameters(model),
    'num_steps': loaded.program.num_steps,
  }
  return run_lib.Run(
    workdir,
    run_lib.header('pretrain', config_lib.as_dict(loaded.config), description),
    loaded.tokenizer,
    label='pretrain',
    seed=train.seed,
    pace=Pace(train, train.eval_every, train.checkpoint_every),
    meta=CheckpointMeta(model, loaded.tokenizer.fingerprint),
    fork=fork,
  )


def _write_scores(
  loaded: Pretraining, workdir: str, scores: dict[str, float]
) -> None:
  num_steps = loaded.program.num_steps
  batch_tokens = loaded.config.data.batch_size * loaded.model.n_ctx
  result = {
    'split': 'validation',
    'tokens': loaded.held_out['tokens'],
    'words': loaded.held_out['words'],
    **scores,
    'step': num_steps,
    'parameters': models.num_parameters(loaded.model),
    'tokens_seen': num_steps * batch_tokens,
  }
  score_file.write(workdir, result)
  line = (
    f'{workdir}: {num_steps} updates, validation perplexity '
    f'{scores["eval_perplexity"]:.2f} per token, '
    f'{scores["eval_word_perplexity"]:.2f} per word'
  )
  if 'eval_bits_per_byte' in scores:
    line += f', {scores["eval_bits_per_byte"]:.3f} bits per byte'
  print(line)


def model_config(config: PretrainConfig, vocab_size: int) -> ModelConfig:
  """Returns the model's configuration for a vocabulary size."""
  kind = models.config_class(config.model.kind)
  values = dataclasses.asdict(config.model)
  return kind(**values, vocab_size=vocab_size, n_special=0)


def build(
  config: PretrainConfig,
  model: ModelConfig,
  mesh: jax.sharding.Mesh,
  num_steps: int,
) -> program_lib.Program:
  """Builds the pretraining program for any mesh, without data.

  Raises:
    UserError: the mesh does not divide the batch or the model.
  """
  batch_size, microbatches = config.data.batch_size, config.train.microbatches
  sharding.check_divides(mesh, batch_size, microbatches, **model.divided)
  network = models.new(model)

  def init(key: jax.Array) -> step.Params:
    tokens_BT = jnp.zeros((1, model.n_ctx), jnp.int32)
    variables = network.init(key, tokens_BT, dropout_key=None)
    return {'gpt': variables['params']}

  built = program_lib.build(
    program_lib.Objective(network, init, step.pretrain_loss(network)),
    config.optim,
    num_steps,
    mesh,
    config.train,
    config.mesh,
  )
  rows = sharding.batch_sharding(mesh)
  batch = {
    name: jax.ShapeDtypeStruct((batch_size, model.n_ctx), dtype, sharding=rows)
    for name, dtype in (('tokens', jnp.int32), ('lm_weights', jnp.float32))
  }
  return dataclasses.replace(built, batch=batch)
