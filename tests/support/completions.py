"""Asks a server for completions."""

PROMPT = 'the string module'


def ask(client, **body: object):
  """Returns the answer to a request, of a client of starlette or httpx."""
  return client.post('/v1/completions', json=body)
