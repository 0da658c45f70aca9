"""Defines the HTTP routes of the server."""

import asyncio
import contextlib
import json
import pathlib
from collections.abc import AsyncIterator, Iterator
from typing import Any

import pydantic
from starlette import applications, requests, responses, routing

from gpt1_jax.errors import UserError
from gpt1_jax.inference import continuation
from gpt1_jax.inference.continuation import Piece
from gpt1_jax.inference.loading import Run
from gpt1_jax.serving import completions, engine as engine_lib, exchange
from gpt1_jax.serving.completions import Logprobs, Request, Sample
from gpt1_jax.settings import GPTConfig

_PAGE = pathlib.Path(__file__).with_name('page.html')
_Json = responses.JSONResponse


class Server:
  """Answers requests about one run."""

  def __init__(self, run: Run, name: str):
    self._run, self._name = run, name
    self._engine = engine_lib.Engine(run)

  def warm_up(self) -> None:
    """Begins to compile what the first request needs."""
    self._engine.warm_up()

  def app(self) -> applications.Starlette:
    """Returns the ASGI application."""
    post = ['POST']
    return applications.Starlette(
      routes=[
        routing.Route('/', self.page),
        routing.Route('/health', self.health),
        routing.Route('/v1/models', self.models),
        routing.Route('/v1/models/{name:path}', self.models),
        routing.Route('/v1/completions', self.complete, methods=post),
        routing.Route('/attention', self.attention, methods=post),
        # As vLLM has them; lm-eval's local-completions asks for them.
        routing.Route('/tokenizer_info', self.tokenizer_info),
        routing.Route('/tokenize', self.tokenize, methods=post),
        routing.Route('/detokenize', self.detokenize, methods=post),
      ],
      exception_handlers={
        UserError: exchange.refused,
        requests.ClientDisconnect: exchange.refused,  # nobody reads the answer
        completions.LimitError: exchange.refused,
        pydantic.ValidationError: exchange.invalid,
        engine_lib.BusyError: exchange.busy,
        404: exchange.unknown,
        405: exchange.unknown,
      },
      lifespan=self._lifespan,
    )

  @contextlib.asynccontextmanager
  async def _lifespan(self, _: applications.Starlette) -> AsyncIterator[None]:
    yield
    self._engine.close()

  async def page(self, _: requests.Request) -> responses.Response:
    return responses.HTMLResponse(_PAGE.read_text(encoding='utf-8'))

  async def health(self, _: requests.Request) -> responses.Response:
    return _Json({'status': 'ok'})

  async def models(self, request: requests.Request) -> responses.Response:
    """Lists the one model, which answers requests for any model name."""
    config = self._run.config
    model = {
      'id': self._name,
      'object': 'model',
      'created': 0,
      'owned_by': 'gpt1_jax',
      'max_model_len': config.n_ctx,
    }
    if isinstance(config, GPTConfig):
      model |= {'n_layer': config.n_layer, 'n_head': config.n_head}
    wanted = request.path_params.get('name')
    if wanted is None:
      return _Json({'object': 'list', 'data': [model]})
    if wanted != self._name:
      return exchange.error(
        404, f'no model {wanted!r} here, only {self._name!r}'
      )
    return _Json(model)

  async def complete(self, request: requests.Request) -> responses.Response:
    """Answers /v1/completions."""
    asked = Request.model_validate_json(await exchange.body(request))
    # A long text takes seconds to encode; other requests do not wait for it.
    wanted = await asyncio.to_thread(completions.samples, self._run, asked)
    self._engine.check_room(len(wanted))
    envelope = completions.envelope(self._name)
    if asked.stream:
      events = self._events(asked, wanted, envelope)
      return responses.StreamingResponse(events, media_type='text/event-stream')
    return _Json(
      await exchange.unless_left(request, self._answer(asked, wanted, envelope))
    )

  async def _answer(
    self, asked: Request, wanted: list[Sample], envelope: dict[str, object]
  ) -> dict[str, object]:
    """Returns the whole response."""
    choices, made = [], []
    with self._submitted(wanted) as jobs:
      for sample, job in zip(wanted, jobs, strict=True):
        prefix, logprobs = await self._prompt(asked, sample)
        pieces = [piece async for piece in job.pieces()] if job else []
        for piece in pieces:
          _add(logprobs, piece)
        done = sample.sample
        text = prefix + (done.text if done else '')
        reason = done.finish_reason if done else 'length'
        choices.append(completions.choice(sample.index, text, reason, logprobs))
        made.append((sample, len(pieces)))
    usage = completions.count_usage(made)
    return {**envelope, 'choices': choices, 'usage': usage}

  @contextlib.contextmanager
  def _submitted(
    self, wanted: list[Sample]
  ) -> Iterator[list[engine_lib.Job | None]]:
    """Submits all samples, so that they run together; cancels them on exit."""
    jobs = [
      self._engine.submit(sample.sample) if sample.sample else None
      for sample in wanted
    ]
    try:
      yield jobs
    finally:  # the client may have left
      for job in filter(None, jobs):
        job.cancelled = True

  async def _prompt(
    self, asked: Request, sample: Sample
  ) -> tuple[str, Logprobs | None]:
    """Returns the echoed prompt, and its log-probabilities."""
    wants = asked.logprobs is not None and asked.logprobs is not False
    tokenizer = self._run.tokenizer
    prefix = ''
    if asked.echo:
      prefix = ''.join(continuation.pieces(tokenizer, sample.prompt))
    if not wants:
      return prefix, None
    count = int(asked.logprobs or 0)
    logprobs = Logprobs(self._run, count)
    if asked.echo:
      found = await self._engine.predictions(sample.prompt, max(1, count))
      logprobs.add_prompt(sample.prompt, found)
    return prefix, logprobs

  async def _events(
    self, asked: Request, wanted: list[Sample], envelope: dict[str, object]
  ) -> AsyncIterator[str]:
    """Yields server-sent events, one sample of a request after another."""
    made = []
    try:
      with self._submitted(wanted) as jobs:
        for sample, job in zip(wanted, jobs, strict=True):
          made.append((sample, 0))
          prefix, logprobs = await self._prompt(asked, sample)
          if prefix or job is None:
            reason = None if job else 'length'
            choice = completions.choice(sample.index, prefix, reason, logprobs)
            yield _event({**envelope, 'choices': [choice]})
          if job is None:
            continue
          async for piece in job.pieces():
            _add(logprobs, piece)
            reason = job.sample.finish_reason if piece.last else None
            choice = completions.choice(
              sample.index, piece.text, reason, logprobs
            )
            made[-1] = (sample, made[-1][1] + 1)
            yield _event({**envelope, 'choices': [choice]})
      if asked.include_usage:
        usage = completions.count_usage(made)
        yield _event({**envelope, 'choices': [], 'usage': usage})
    except Exception as error:  # sent in the stream
      yield _event(exchange.message(500, f'{type(error).__name__}: {error}'))
    yield 'data: [DONE]\n\n'

  async def attention(self, request: requests.Request) -> responses.Response:
    """Returns {tokens, weights [T, T]} of one head, for the page."""
    asked = _AttentionRequest.model_validate_json(await exchange.body(request))
    ids = await asyncio.to_thread(self._run.encode, asked.prompt)
    ids = ids[-self._run.config.n_ctx :]
    found = await self._engine.call(lambda: self._run.attentions(ids))
    layers, heads = found.shape[:2]
    if asked.layer >= layers or asked.head >= heads:
      return exchange.error(
        400, f'layer and head must be below {layers} and {heads}'
      )
    return _Json(
      {
        'tokens': continuation.pieces(self._run.tokenizer, ids),
        'weights': found[asked.layer, asked.head].round(4).tolist(),
      }
    )

  async def tokenizer_info(self, _: requests.Request) -> responses.Response:
    end = self._end()
    return _Json({'eos_token': end, 'bos_token': end, 'pad_token': end})

  async def tokenize(self, request: requests.Request) -> responses.Response:
    asked = _TokenizeRequest.model_validate_json(await exchange.body(request))
    ids = await asyncio.to_thread(self._run.ids, asked.prompt)
    if asked.prompt == self._end():
      ids = [self._run.tokenizer.document_id]
    return _Json(
      {
        'tokens': ids,
        'count': len(ids),
        'max_model_len': self._run.config.n_ctx,
      }
    )

  async def detokenize(self, request: requests.Request) -> responses.Response:
    asked = _DetokenizeRequest.model_validate_json(await exchange.body(request))
    return _Json({'prompt': self._run.tokenizer.decode(asked.tokens)})

  def _end(self) -> str:
    """Returns the name of the token between documents."""
    return self._run.tokenizer.decode([self._run.tokenizer.document_id])


class _AttentionRequest(pydantic.BaseModel):
  prompt: str | list[int]
  layer: int = pydantic.Field(default=0, ge=0)
  head: int = pydantic.Field(default=0, ge=0)


class _TokenizeRequest(pydantic.BaseModel):
  prompt: str


class _DetokenizeRequest(pydantic.BaseModel):
  tokens: list[int]


def _add(logprobs: Logprobs | None, piece: Piece) -> None:
  if logprobs:
    logprobs.add(piece.spelled, piece.token)


def _event(value: Any) -> str:
  return f'data: {json.dumps(value)}\n\n'
