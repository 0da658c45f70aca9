"""Makes the configurations of runs that differ by their seed."""

import dataclasses

from gpt1_jax.config import FinetuneConfig


def one_seed(config: FinetuneConfig, number: int) -> FinetuneConfig:
  """Returns the configuration of one of several runs, as if run alone."""
  return dataclasses.replace(
    config,
    train=dataclasses.replace(
      config.train, seed=config.train.seed + number, seeds=1
    ),
    data=dataclasses.replace(config.data, seed=config.data.seed + number),
  )
