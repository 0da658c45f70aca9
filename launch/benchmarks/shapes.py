"""What a candidate is to run: the same shape for ours and for the peers.

Settings hold `preset` (of configs/pretrain.py), `vocab_size`, `batch_size` and
`model`, what differs from the preset's config.model.
"""

from collections.abc import Mapping
from typing import Any

import numpy as np

from configs import pretrain as pretrain_config


def config(settings: Mapping[str, Any]) -> dict[str, Any]:
  """The configuration of pretraining, plain values."""
  out = pretrain_config.get_config(settings['preset']).to_dict()
  out['model'] |= settings['model']
  out['data'] |= {'path': '', 'batch_size': settings['batch_size']}
  return out


def tokens(settings: Mapping[str, Any], count: int | None = None) -> np.ndarray:
  """int32 [batch_size, count]; n_ctx of them where `count` is None."""
  count = count or config(settings)['model']['n_ctx']
  shape = (settings['batch_size'], count)
  rng = np.random.default_rng(0)
  return rng.integers(0, settings['vocab_size'], shape, np.int32)


def openai_config(settings: Mapping[str, Any]) -> Any:
  """The `transformers.OpenAIGPTConfig` of the same model.

  Raises:
    ModuleNotFoundError: transformers is not installed.
  """
  import transformers

  model = config(settings)['model']
  names = ('n_layer', 'n_head', 'n_embd')
  rates = ('embd_pdrop', 'attn_pdrop', 'resid_pdrop')
  return transformers.OpenAIGPTConfig(
    vocab_size=settings['vocab_size'],
    n_positions=model['n_ctx'],
    **{name: model[name] for name in (*names, *rates)},
  )


def write_batches(path: str, batches: list[dict[str, np.ndarray]]) -> None:
  """For candidates of a fine-tuning step, so that all take the same."""
  flat = {
    f'{number}/{name}': x
    for number, batch in enumerate(batches)
    for name, x in batch.items()
  }
  np.savez(path, **flat)


def read_batches(path: str) -> list[dict[str, np.ndarray]]:
  """What `write_batches` wrote."""
  out: dict[int, dict[str, np.ndarray]] = {}
  with np.load(path) as file:
    for key, x in file.items():
      number, name = key.split('/')
      out.setdefault(int(number), {})[name] = x
  return [out[number] for number in sorted(out)]
