"""Defines the workload that all candidates of a comparison run."""

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
  """Settings of a candidate; the last ones are each used by one suite.

  Attributes:
    preset: preset of configs/pretrain.py, for the model's shape.
    vocab_size: size of the vocabulary.
    dtype: compute dtype.
    batch_size: sequences per batch.
    steps: updates per repetition.
    compile: train: use torch.compile.
    prompt, tokens: generate: number of prompt tokens and of generated tokens.
    attention: gpu: config.model.attention.
    network: generate and gpu: model class in transformers.
    task, classes, batches: finetune: the task's name, its number of classes,
      and the npz file with its first batches.
    spool, tokenizer, cores: prepare: folder of cleaned text, folder of the
      tokenizer, and number of processes.
  """

  preset: str
  vocab_size: int
  dtype: str = 'float32'
  batch_size: int = 2
  steps: int = 1
  # ---
  compile: bool = False
  attention: str = 'auto'
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
    """Returns the pretraining configuration for one device."""
    values = cli.config_values(f'configs/pretrain.py:{self.preset}')
    values['model'] |= {'dtype': self.dtype, 'attention': self.attention}
    values['data'] |= {'path': 'none', 'batch_size': self.batch_size}
    return config.parse(PretrainConfig, values)

  def random_tokens(self, count: int) -> np.ndarray:
    """Returns int32 [batch_size, count], identical for every candidate."""
    shape = (self.batch_size, count)
    rng = np.random.default_rng(0)
    return rng.integers(0, self.vocab_size, shape, np.int32)

  def openai_config(self) -> 'transformers.OpenAIGPTConfig':
    """Returns the same model's configuration in transformers."""
    import transformers

    model = vars(self.pretrain_config().model)
    sizes = ('n_layer', 'n_head', 'n_embd')
    rates = ('embd_pdrop', 'attn_pdrop', 'resid_pdrop')
    return transformers.OpenAIGPTConfig(
      vocab_size=self.vocab_size,
      n_positions=model['n_ctx'],
      **{name: model[name] for name in sizes + rates},
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
  """Returns a task's fine-tuning configuration, without a run or data."""
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
