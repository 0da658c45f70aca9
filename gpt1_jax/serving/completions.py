"""Implements the OpenAI completions API: checks requests, builds responses."""

import dataclasses
import secrets
import time
from collections.abc import Sequence
from typing import Annotated, Any, TypedDict

import pydantic
from pydantic import Field

from gpt1_jax.inference import continuation, options
from gpt1_jax.inference.continuation import Continuation
from gpt1_jax.inference.loading import Run
from gpt1_jax.model import continuous, inspection

MAX_TOKENS = 4096  # per sample
MAX_TEXTS = 256  # samples per request

Ids = list[int]
_LACKING = ('suffix', 'frequency_penalty', 'presence_penalty', 'logit_bias')
Prompt = str | Ids | list[str] | list[Ids]


class _StreamOptions(pydantic.BaseModel):
  """Configures a stream.

  Attributes:
    include_usage: True ends the stream with an event that holds `usage`.
  """

  model_config = pydantic.ConfigDict(extra='forbid')
  include_usage: bool | None = False


class Request(pydantic.BaseModel):
  """The body of a request to /v1/completions.

  Refuses unknown keys. Refuses unsupported ones, too, unless their value
  changes nothing, such as a penalty of 0.

  Attributes:
    prompt: a text, token ids, or a list of either; '' starts a new document.
    n: samples of each prompt.
    logprobs: number of alternatives to list at each token, or None.
    echo: True returns the prompt before each sample.
    model, suffix, ...: see OpenAI's reference. `top_k` is an addition.
  """

  model_config = pydantic.ConfigDict(extra='forbid')
  prompt: Prompt = ''
  model: str | None = None
  max_tokens: Annotated[int, Field(ge=0, le=MAX_TOKENS)] | None = 16
  temperature: options.Temperature | None = 1.0
  top_p: options.Share | None = 1.0
  top_k: Annotated[int, Field(ge=0)] | None = 0
  n: Annotated[int, Field(ge=1, le=MAX_TEXTS)] | None = 1
  stop: str | Annotated[list[str], Field(max_length=16)] | None = None
  seed: Annotated[int, Field(ge=-(2**63), lt=2**63)] | None = None
  echo: bool | None = False
  logprobs: (
    Annotated[int, Field(ge=0, le=continuous.ALTERNATIVES)] | bool | None
  ) = None
  stream: bool | None = False
  stream_options: _StreamOptions | None = None
  user: str | None = None
  suffix: str | None = None
  best_of: int | None = None
  frequency_penalty: float | None = None
  presence_penalty: float | None = None
  logit_bias: dict[str, float] | None = None

  @property
  def include_usage(self) -> bool:
    """True if the stream ends with an event that holds `usage`."""
    return bool(self.stream_options and self.stream_options.include_usage)

  @pydantic.model_validator(mode='after')
  def _asks_for_what_we_have(self) -> 'Request':
    if self.best_of not in (None, self.n or 1):
      raise ValueError('best_of is not supported: ask for n and choose')
    for name in _LACKING:
      if getattr(self, name):
        raise ValueError(f'{name} is not supported')
    return self


@dataclasses.dataclass(frozen=True)
class Sample:
  """One choice of a response.

  Attributes:
    sample: its continuation; None if max_tokens is 0.
  """

  index: int
  prompt: Ids
  sample: Continuation | None


class LimitError(Exception):
  """Raised if a valid request exceeds a limit of this model or server."""


def samples(run: Run, request: Request) -> list[Sample]:
  """Returns the samples that a request asks for, not yet started.

  Raises:
    LimitError, UserError: the message says what is too long or unknown.
  """
  prompts = [run.ids(prompt) for prompt in _prompts(request.prompt)]
  count = request.n or 1
  if len(prompts) * count > MAX_TEXTS:
    raise LimitError(
      f'{len(prompts)} prompts times n={count} are more than {MAX_TEXTS} texts'
    )
  for ids in prompts:
    if len(ids) > run.config.n_ctx:
      raise LimitError(
        f'the prompt has {len(ids)} tokens; this model reads '
        f'{run.config.n_ctx}: shorten it'
      )
  max_tokens = 16 if request.max_tokens is None else request.max_tokens
  seed = request.seed
  how = options.parse(
    {
      'max_tokens': max(1, max_tokens),
      'temperature': _given(request.temperature, 1.0),
      'top_p': _given(request.top_p, 1.0),
      'top_k': int(_given(request.top_k, 0)),
      'seed': None if seed is None else seed % 2**63,
      'stop': request.stop,
    }
  )
  return [
    Sample(
      number * count + i,
      ids or [run.tokenizer.document_id],
      run.start(ids, how, (number, i)) if max_tokens else None,
    )
    for number, ids in enumerate(prompts)
    for i in range(count)
  ]


def _prompts(prompt: Prompt) -> Sequence[str | Ids]:
  if isinstance(prompt, str):
    return [prompt]
  if not prompt:
    raise LimitError('prompt is an empty list: give a text or token ids')
  if isinstance(prompt[0], int):
    return [prompt]  # a list of ids
  return prompt


def _given(value: float | None, default: float) -> float:
  return default if value is None else value


class Logprobs:
  """Collects `logprobs` of a choice, token by token.

  `token_ids` is an addition to the API.
  """

  def __init__(self, run: Run, count: int, offset: int = 0):
    self._run, self._count, self._offset = run, count, offset
    self.tokens: list[str] = []
    self.token_ids: Ids = []
    self.token_logprobs: list[float | None] = []
    self.top_logprobs: list[dict[str, float] | None] = []
    self.text_offset: list[int] = []

  def add(
    self, spelled: str, token: continuous.Token, first: bool = False
  ) -> None:
    """Adds a token; the first of a prompt has no probability."""
    self.tokens.append(spelled)
    self.token_ids.append(token.id)
    self.text_offset.append(self._offset)
    self._offset += len(spelled)
    if first:
      self.token_logprobs.append(None)
      self.top_logprobs.append(None)
      return
    top: dict[str, float] = {}
    for id_, log_prob in token.top[: self._count]:
      name = continuation.name(self._run.tokenizer, id_)
      top.setdefault(name, log_prob)
    if self._count:
      top.setdefault(
        continuation.name(self._run.tokenizer, token.id), token.log_prob
      )
    self.token_logprobs.append(token.log_prob)
    self.top_logprobs.append(top)

  def add_prompt(self, ids: Ids, found: inspection.Predictions) -> None:
    """Adds the tokens of an echoed prompt."""
    spelled = continuation.pieces(self._run.tokenizer, ids)
    for t, (id_, text) in enumerate(zip(ids, spelled, strict=True)):
      top = zip(
        found.top_ids_BTk[t].tolist(), found.top_BTk[t].tolist(), strict=True
      )
      token = continuous.Token(id_, float(found.log_probs_BT[t]), tuple(top))
      self.add(text, token, first=t == 0)

  def json(self) -> dict[str, list[Any]]:
    """Returns and forgets what was added since the last call."""
    out: dict[str, list[Any]] = {
      'tokens': self.tokens,
      'token_ids': self.token_ids,
      'token_logprobs': self.token_logprobs,
      'top_logprobs': self.top_logprobs,
      'text_offset': self.text_offset,
    }
    self.tokens, self.token_ids, self.token_logprobs = [], [], []
    self.top_logprobs, self.text_offset = [], []
    return out


class Choice(TypedDict):
  """An entry of `choices` in a response."""

  index: int
  text: str
  logprobs: dict[str, list[Any]] | None
  finish_reason: str | None


def choice(
  index: int, text: str, reason: str | None, logprobs: Logprobs | None
) -> Choice:
  """Returns one entry of `choices`."""
  return {
    'index': index,
    'text': text,
    'logprobs': logprobs.json() if logprobs else None,
    'finish_reason': reason,
  }


def envelope(model: str) -> dict[str, object]:
  """Returns the fields that every part of a response has."""
  return {
    'id': f'cmpl-{secrets.token_hex(12)}',
    'object': 'text_completion',
    'created': int(time.time()),
    'model': model,
  }


def count_usage(
  made: Sequence[tuple[Sample, int]],
) -> dict[str, int]:
  """Returns `usage` from samples and their numbers of tokens.

  A prompt counts once per sample.
  """
  prompt = sum(len(sample.prompt) for sample, _ in made)
  completion = sum(count for _, count in made)
  return {
    'prompt_tokens': prompt,
    'completion_tokens': completion,
    'total_tokens': prompt + completion,
  }
