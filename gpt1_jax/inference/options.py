"""Declares the options of text generation, for Python, commands and server."""

import json
import secrets
from typing import Annotated, TypedDict

import pydantic
from pydantic import Field

from gpt1_jax import mistakes
from gpt1_jax.errors import UserError
from gpt1_jax.model import sampling
from gpt1_jax.settings import STRICT, AtLeastOne, Count

Temperature = Annotated[float, Field(ge=0, le=100)]
Share = Annotated[float, Field(gt=0, le=1)]
RandomSeed = Annotated[int, Field(ge=0, lt=2**63)]
_SMALLEST = 1.2e-38  # smaller float32 numbers lose precision


@pydantic.dataclasses.dataclass(frozen=True, kw_only=True, config=STRICT)
class Options:
  """Settings for continuing a text.

  Attributes:
    max_tokens: tokens to generate at most.
    temperature: below 1 sharpens the distribution, above 1 flattens it; 0, and
      what float32 rounds to 0, takes the most likely token.
    top_k: samples from the k most likely tokens; 0 samples from all.
    top_p: samples from the smallest set of tokens whose probability reaches
      top_p; 1 samples from all.
    seed: random seed; the same seed gives the same text.
    stop: texts that end the sample; they are not part of it.
  """

  max_tokens: AtLeastOne = 100
  temperature: Temperature = 1.0
  top_k: Count = 0
  top_p: Share = 1.0
  seed: RandomSeed = 0
  stop: tuple[str, ...] = ()

  @property
  def sampling(self) -> sampling.Sampling:
    """The options that choose a token."""
    return sampling.Sampling(
      greedy=self.temperature < _SMALLEST,
      temperature=self.temperature,
      top_k=self.top_k,
      top_p=self.top_p,
    )


class OptionValues(TypedDict, total=False):
  """Keyword arguments of `Run.generate`; see `Options`.

  `seed=None` draws a seed; `stop` may be a single text.
  """

  max_tokens: int
  temperature: float
  top_k: int
  top_p: float
  seed: int | None
  stop: str | tuple[str, ...] | list[str] | None


def parse(values: OptionValues) -> Options:
  """Validates options; those not given get their defaults.

  Raises:
    UserError: an option is unknown or out of range; the message names all.
  """
  given: dict[str, object] = dict(values)
  stop = given.get('stop')
  if stop is None or isinstance(stop, str):
    given['stop'] = [stop] if stop else []
  if given.get('seed', 0) is None:
    given['seed'] = secrets.randbits(62)
  try:
    text = json.dumps(given, default=repr)
    return pydantic.TypeAdapter(Options).validate_json(text)
  except pydantic.ValidationError as error:
    lines = [mistakes.line(Options, mistake) for mistake in error.errors()]
  raise UserError('; '.join(line.removeprefix('config.') for line in lines))
