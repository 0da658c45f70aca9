"""The measurement that every candidate of a comparison runs."""

import dataclasses
import pathlib
from typing import TYPE_CHECKING

import numpy as np

from gpt1_jax import cli, config
from gpt1_jax.config import FinetuneConfig, PretrainConfig

if TYPE_CHECKING:
  import transformers

Batch = dict[str, np.ndarray]


@dataclasses.dataclass(frozen=True)
class Case:
  """Settings of a candidate; the fields below the line are one suite's.

  Attributes:
    preset: of configs/pretrain.py, for the model's shape.
    vocab_size: entries of the vocabulary.
    dtype: of the computation.
    batch_size: sequences in a batch.
    steps: updates in one repetition.
    compile: train: use torch.compile.
    prompt, tokens: generate: tokens that are given and generated.
    network: generate: class of transformers.
    task, classes, batches: finetune: its name, its number of classes, and the
      npz file with its first batches.
    spool, tokenizer, cores: prepare: folders of cleaned text and of the
      tokenizer, and the number of processes.
  """

  preset: str
  vocab_size: int
  dtype: str = 'float32'
  batch_size: int = 2
  steps: int = 1
  # ---
  compile: bool = False
  prompt: int = 0
  tokens: int = 0
  network: str = ''
  task: str = ''
  classes: int = 0
  batches: str = ''
  spool: str = ''
  tokenizer: str = ''
  cores: int = 1

  def pretrain_config(self) -> PretrainConfig:
    """Returns the configuration of pretraining, for one device."""
    values = cli.config_values(f'configs/pretrain.py:{self.preset}')
    values['model']['dtype'] = self.dtype
    values['data'] |= {'path': 'none', 'batch_size': self.batch_size}
    return config.parse(PretrainConfig, values)

  def random_tokens(self, count: int) -> np.ndarray:
    """Returns int32 [batch_size, count], the same in every candidate."""
    shape = (self.batch_size, count)
    rng = np.random.default_rng(0)
    return rng.integers(0, self.vocab_size, shape, np.int32)

  def openai_config(self) -> 'transformers.OpenAIGPTConfig':
    """Returns the configuration of the same model in transformers."""
    import transformers

    model = self.pretrain_config().model
    assert model.kind == 'gpt'
    return transformers.OpenAIGPTConfig(
      vocab_size=self.vocab_size,
      n_positions=model.n_ctx,
      n_layer=model.n_layer,
      n_head=model.n_head,
      n_embd=model.n_embd,
      embd_pdrop=model.embd_pdrop,
      attn_pdrop=model.attn_pdrop,
      resid_pdrop=model.resid_pdrop,
    )

  def read_batches(self) -> list[Batch]:
    """Reads the batches that `write_batches` wrote."""
    with np.load(self.batches) as file:
      count = 1 + max(int(key.split('/')[0]) for key in file)
      out: list[Batch] = [{} for _ in range(count)]
      for key, x in file.items():
        number, name = key.split('/')
        out[int(number)][name] = x
    return out


def finetune_config(task: str) -> FinetuneConfig:
  """Returns the configuration of fine-tuning a task, without a run or data."""
  values = cli.config_values(f'configs/finetune.py:{task}')
  values |= {'init_from': 'none', 'like': 'none'}
  values['data']['path'] = 'none'
  return config.parse(FinetuneConfig, values)


def write_batches(path: pathlib.Path, batches: list[Batch]) -> None:
  """Writes batches for several candidates to one npz file."""
  flat = {
    f'{number}/{name}': x
    for number, batch in enumerate(batches)
    for name, x in batch.items()
  }
  np.savez(path, allow_pickle=False, **flat)
