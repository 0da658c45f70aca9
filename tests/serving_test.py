"""The server: OpenAI's client, 32 clients at once, limits, and the page."""

import concurrent.futures
import threading

import numpy as np
import pytest

import gpt1_jax
from tests.support import commands
from tests.support.completions import PROMPT, ask

testclient = pytest.importorskip(
  'starlette.testclient', reason="pip install 'gpt1_jax[serve]'"
)
openai = pytest.importorskip('openai', reason="pip install 'gpt1_jax[test]'")

app = pytest.importorskip('gpt1_jax.serving.app')
exchange = pytest.importorskip('gpt1_jax.serving.exchange')


@pytest.fixture(scope='module')
def run(pretrained):
  return gpt1_jax.load(pretrained)


@pytest.fixture(scope='module')
def local(run):
  """A client of the application in this process."""
  with testclient.TestClient(app.Server(run, 'mini').app()) as client:
    yield client


@pytest.fixture(scope='module')
def client(pretrained):
  """OpenAI's client of a server in a process of its own."""
  with (
    commands.serving(pretrained) as url,
    openai.OpenAI(base_url=f'{url}/v1', api_key='none') as found,
  ):
    yield found


def test_openai_client(client, run):
  (model,) = client.models.list()
  assert (model.id, model.max_model_len) == ('pretrained', 64)
  made = client.completions.create(
    model=model.id, prompt=PROMPT, max_tokens=6, seed=3, echo=True
  )
  want = run.generate(PROMPT, max_tokens=6, seed=3)
  assert made.choices[0].text == want
  assert made.choices[0].finish_reason == 'length'
  assert made.usage.completion_tokens == 6
  events = client.completions.create(
    model=model.id, prompt=PROMPT, max_tokens=6, seed=3, echo=True, stream=True
  )
  choices = [event.choices[0] for event in events]
  assert ''.join(choice.text for choice in choices) == want
  assert [c.finish_reason for c in choices] == [None] * 6 + ['length']


def test_32_clients_at_once(client, run):
  """Each gets the text it would get alone."""

  def complete(seed):
    return client.completions.create(
      model='any', prompt=PROMPT, max_tokens=5 + seed % 7, seed=seed
    )

  with concurrent.futures.ThreadPoolExecutor(32) as pool:
    made = list(pool.map(complete, range(32)))
  before = run.spelled(PROMPT)
  for seed in (0, 11, 31):
    want = run.generate(PROMPT, max_tokens=5 + seed % 7, seed=seed)
    assert before + made[seed].choices[0].text == want
  # Some come to the end of a document.
  assert {m.choices[0].finish_reason for m in made} <= {'length', 'stop'}


def test_a_stream_ends_with_usage_if_asked(client):
  events = client.completions.create(
    model='any', prompt=['the', ''], max_tokens=3, n=2, stream=True,
    stream_options={'include_usage': True}, seed=1,
  )  # fmt: skip
  *others, last = events
  assert all(event.usage is None for event in others)
  made = client.completions.create(
    model='any', prompt=['the', ''], max_tokens=3, n=2, seed=1
  )
  assert (last.choices, last.usage) == ([], made.usage)


def test_logprobs_of_an_echoed_prompt(local, run):
  """A request as lm-eval sends it: ids, echo and log-probabilities."""
  ids = run.encode(PROMPT)
  body = ask(
    local, prompt=[ids, ids[:5]], max_tokens=1, echo=True, logprobs=1,
    temperature=0, seed=1,
  ).json()  # fmt: skip
  for choice, n in zip(body['choices'], (len(ids), 5), strict=True):
    found = choice['logprobs']
    assert len(found['tokens']) == n + 1
    assert found['token_ids'][:n] == ids[:n]
    assert ''.join(found['tokens']) == choice['text']
    assert found['token_logprobs'][0] is None
    logits = run.logits(ids[:n])[:-1].astype(np.float64)
    log_z = np.log(np.exp(logits).sum(axis=-1))
    want = logits[np.arange(n - 1), ids[1:n]] - log_z
    np.testing.assert_allclose(
      found['token_logprobs'][1:n], want, rtol=0, atol=1e-5
    )
    best = [max(top.values()) for top in found['top_logprobs'][1:n]]
    np.testing.assert_allclose(
      best, logits.max(axis=-1) - log_z, rtol=0, atol=1e-5
    )
    # Greedy: the token is the best, to the last bit.
    assert found['token_logprobs'][-1] == max(
      found['top_logprobs'][-1].values()
    )


def test_several_prompts_samples_and_a_stop_text(local, run):
  body = ask(local, prompt=[PROMPT, 'the'], n=2, max_tokens=8, seed=5).json()
  choices = body['choices']
  assert [choice['index'] for choice in choices] == [0, 1, 2, 3]
  assert len({choice['text'] for choice in choices}) == 4
  assert body['usage']['completion_tokens'] == 32
  stop = choices[0]['text'][3:5]
  stopped = ask(local, prompt=PROMPT, max_tokens=8, seed=5, stop=[stop]).json()
  (choice,) = stopped['choices']
  end = choices[0]['text'].index(stop)
  assert choice['text'] == choices[0]['text'][:end]
  assert choice['finish_reason'] == 'stop'


def test_settings_that_change_nothing_are_accepted(local):
  neutral = {'frequency_penalty': 0, 'presence_penalty': 0.0, 'user': 'me'}
  neutral |= {'logit_bias': {}, 'suffix': None, 'best_of': 1, 'n': 1}
  assert ask(local, prompt='the', max_tokens=1, **neutral).status_code == 200


def test_no_tokens_are_asked_for(local, run):
  body = ask(local, prompt=PROMPT, max_tokens=0, echo=True, logprobs=0).json()
  (choice,) = body['choices']
  assert choice['text'] == run.spelled(PROMPT)
  assert len(choice['logprobs']['token_logprobs']) == len(run.encode(PROMPT))


@pytest.mark.parametrize(
  ('body', 'message'),
  [
    ({'temperature': -1}, 'temperature: Input should be greater than'),
    ({'top_p': 0}, 'top_p: '),
    ({'n': 0}, 'n: '),
    ({'n': 129, 'prompt': ['a', 'b']}, '2 prompts times n=129 are more than'),
    ({'max_tokens': 10**6}, 'max_tokens: Input should be less'),
    ({'logprobs': 6}, 'logprobs: '),
    ({'prompt': []}, 'prompt is an empty list'),
    ({'prompt': [1, 10**6]}, 'token id 1000000 is outside'),
    ({'prompt': [1] * 65}, 'the prompt has 65 tokens; this model reads 64'),
    ({'prompt': 7}, 'prompt: '),
    ({'best_of': 3}, 'best_of is not supported'),
    ({'suffix': 'x'}, 'suffix is not supported'),
    ({'frequency_penalty': 0.5}, 'frequency_penalty is not supported'),
    ({'presence_penalty': -0.5}, 'presence_penalty is not supported'),
    ({'logit_bias': {'5': 100}}, 'logit_bias is not supported'),
    ({'repetition_penalty': 1.2}, 'repetition_penalty: not supported'),
    ({'stream_options': {'x': 1}}, 'stream_options: not supported'),
    ({'x' * 60 + 'y' * 5000: 1}, f'{"x" * 60}: not supported'),
  ],
)
def test_limits_answer_400_with_a_sentence(local, body, message):
  answer = ask(local, **{'prompt': 'the', **body})
  assert answer.status_code == 400
  assert message in answer.json()['error']['message']


def test_other_mistakes_answer_4xx(local, monkeypatch):
  answer = local.post('/v1/completions', content=b'{"prompt')
  assert answer.status_code == 400
  assert 'Invalid JSON' in answer.json()['error']['message']
  assert local.post('/v1/models').status_code == 405
  assert local.get('/v1/models/other').status_code == 404
  assert local.get('/v2').json()['error']['message'] == (
    'GET /v2: Not Found; this server has /, /health, /v1/models, '
    '/v1/completions, /attention, /tokenizer_info, /tokenize, /detokenize'
  )
  long = local.post('/v1/completions', content=b' ' * (exchange.MAX_BODY + 1))
  assert 'longer than' in long.json()['error']['message']
  monkeypatch.setattr(app.engine_lib, 'MAX_WAITING', 3)
  answer = ask(local, prompt='the', n=4)
  assert answer.status_code == 429
  assert 'try again later' in answer.json()['error']['message']


def test_tokenizer_endpoints(local, run):
  """lm-eval's remote tokenizer."""
  end = local.get('/tokenizer_info').json()['eos_token']
  encoded = local.post('/tokenize', json={'prompt': end}).json()
  assert encoded['tokens'] == [run.tokenizer.document_id]
  ids = local.post('/tokenize', json={'prompt': PROMPT}).json()['tokens']
  assert ids == run.encode(PROMPT)
  decoded = local.post('/detokenize', json={'tokens': ids}).json()
  assert decoded['prompt'] == run.spelled(PROMPT)


def test_attention_for_the_page(local, run):
  body = {'prompt': PROMPT, 'layer': 0, 'head': 1}
  for prompt in (PROMPT, run.encode(PROMPT)):
    found = local.post('/attention', json={**body, 'prompt': prompt}).json()
    np.testing.assert_allclose(
      found['weights'], run.attentions(PROMPT)[0, 1], rtol=0, atol=1e-4
    )
  refused = local.post('/attention', json={**body, 'head': 2})
  assert refused.status_code == 400
  assert '<textarea' in local.get('/').text


def test_a_long_text_does_not_hold_up_other_requests(local, run, monkeypatch):
  begun, may_end = threading.Event(), threading.Event()
  ids = run.ids

  def slow_ids(text):
    begun.set()
    assert may_end.wait(30)
    return ids(text)

  monkeypatch.setattr(run, 'ids', slow_ids)
  with concurrent.futures.ThreadPoolExecutor(1) as pool:
    reply = pool.submit(local.post, '/tokenize', json={'prompt': PROMPT})
    try:
      assert begun.wait(30)
      assert local.get('/health').json() == {'status': 'ok'}
    finally:
      may_end.set()
  assert reply.result().json()['tokens'] == ids(PROMPT)
