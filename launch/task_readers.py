"""Reads malformed tasks, models, requests and settings; see malformed.py."""

import asyncio
import copy
import json
import pathlib
from collections.abc import Iterator
from typing import Any

import checkout
import jax
import numpy as np
import pydantic
from file_readers import Entry, Reader, Rng, changed, expect
from mutations import mutate, mutate_json, mutate_value, odd_value

from gpt1_jax import cli, config as config_lib, generate, storage
from gpt1_jax.errors import UserError
from gpt1_jax.inference import options
from gpt1_jax.inference.loading import Run
from gpt1_jax.interop import conversion
from gpt1_jax.serving import app, completions
from gpt1_jax.tasks import examples, labelling, table
from gpt1_jax.tasks.definition import Task
from tests.support import task_archives

_STORIES = 0.02  # share of the trials: its files are large
_LINES = ''.join(
  json.dumps({'text': f'a "plot", {n}\té', 'label': ('bad', 'good')[n % 2]})
  + '\n'
  for n in range(4)
).encode()
_CSV = b'text,label\n"a ""plot"", 1",bad\nb,good\n"c\nd",bad\n'
_TSV = b'text\tlabel\na "plot", 1\tbad\nb\tgood\n'


def task_readers(top: pathlib.Path) -> Iterator[Entry]:
  """Yields the readers of tasks' files."""
  folders = {
    name: task_archives.unpack(top / 'tasks' / name, members)
    for name, members in task_archives.ARCHIVES.items()
  }
  by_archive = {
    name: [task for task in table.TASKS.values() if _is_of(task, name, members)]
    for name, members in task_archives.ARCHIVES.items()
  }
  small = [name for name in folders if name != 'StoryCloze.zip']

  def choose(rng: Rng) -> str:
    return 'StoryCloze.zip' if rng.random() < _STORIES else rng.choice(small)

  def read(task: Task, path: pathlib.Path, rng: Rng) -> None:
    for example in examples.read(task, str(path), rng.choice(list(task.files))):
      _check_example(task, example)

  def files(rng: Rng) -> None:
    name = choose(rng)
    file = rng.choice(
      [p for p in sorted(folders[name].rglob('*')) if p.is_file()]
    )
    with changed(file, mutate_json(file.read_bytes(), rng)):
      read(rng.choice(by_archive[name]), folders[name], rng)

  def archives(rng: Rng) -> None:
    name = choose(rng)
    members = dict(task_archives.ARCHIVES[name])
    file = top / name
    task_archives.pack(file, members)
    file.write_bytes(mutate(file.read_bytes(), rng))
    read(rng.choice(by_archive[name]), file, rng)

  yield 'files of tasks', 10, files
  yield '.zip and .tar.gz of tasks', 4, archives
  yield from _own_tasks(top / 'own')


def _is_of(task: Task, name: str, members: dict[str, str]) -> bool:
  folder = next(iter(members)).partition('/')[0]
  return folder in task.folders or name.partition('.')[0] in task.folders


def _check_example(task: Task, example: examples.Example) -> None:
  for text in (*example.texts, *example.choices):
    expect(isinstance(text, str), f'{text!r} is no text')
    text.encode()
  if example.label is not None and not task.regression:
    allowed = examples.labels(task, len(example.choices))
    expect(0 <= example.label < len(allowed), f'label {example.label}')


def _own_tasks(folder: pathlib.Path) -> Iterator[Entry]:
  folder.mkdir()
  values = cli.config_values(f'{checkout.ROOT}/configs/own_task.py:tiny')
  values |= {'init_from': 'x', 'data': values['data'] | {'path': 'x'}}
  task = table.resolve(config_lib.parse(config_lib.FinetuneConfig, values).task)
  forms = {'.jsonl': _LINES, '.csv': _CSV, '.tsv': _TSV}

  def write(rng: Rng, name: str) -> pathlib.Path:
    ending = rng.choice(sorted(forms))
    change = mutate_json if ending == '.jsonl' else mutate
    for old in folder.iterdir():
      old.unlink()
    file = folder / f'{name}{ending}'
    file.write_bytes(change(forms[ending], rng))
    return file

  def files(rng: Rng) -> None:
    split = rng.choice(('train', 'dev', 'test'))
    write(rng, split)
    for example in examples.read(task, str(folder), split):
      _check_example(task, example)

  def predicted(rng: Rng) -> None:
    cells, found = labelling._read(task, str(write(rng, 'new')))
    expect(len(cells) == len(found), 'rows were lost')
    json.dumps(cells, ensure_ascii=False)
    for example in found:
      _check_example(task, example)

  def prompts(rng: Rng) -> None:
    file = folder / 'prompt'
    file.write_bytes(
      mutate('It was a dark\nnight, \u201cso\u201d\n'.encode(), rng)
    )
    generate._read(str(file)).encode()

  def declared(rng: Rng) -> None:
    odd = copy.deepcopy(values)
    odd['task'] = mutate_value(odd['task'], rng)
    table.resolve(config_lib.parse(config_lib.FinetuneConfig, odd).task)

  yield 'files of own tasks', 8, files
  yield 'input of predict', 4, predicted
  yield 'prompt file', 2, prompts
  yield 'config.task', 3, declared


def model_readers(
  huggingface: pathlib.Path, openai: pathlib.Path
) -> Iterator[Entry]:
  """Yields the readers of released and converted weights."""

  def reader(folder: pathlib.Path, pattern: str) -> Reader:
    files = sorted(folder.glob(pattern))

    def read(rng: Rng) -> None:
      file = rng.choice(files)
      with changed(file, mutate_json(file.read_bytes(), rng)):
        found, _ = conversion.as_checkpoint(
          conversion.read_folder(folder), folder
        )
      for array in jax.tree.leaves(found.params):
        expect(array.dtype == np.float32, f'an array of {array.dtype}')
        expect(bool(np.isfinite(array).all()), 'not finite')

    return read

  yield 'config.json of Hugging Face', 3, reader(huggingface, 'config.json')
  yield '.safetensors', 3, reader(huggingface, '*.safetensors*')
  yield 'params_shapes.json', 1, reader(openai, '*shapes.json')
  yield '.npy', 1, reader(openai, '*.npy')


def server_readers(run: Run) -> Iterator[Entry]:
  """Yields the reader of a server's requests."""
  server = app.Server(run, 'x').app()
  seeds = {
    '/v1/completions': {
      'prompt': 'It was', 'max_tokens': 2, 'temperature': 0.5, 'n': 1,
      'stop': ['x'], 'seed': 1, 'echo': True, 'logprobs': 1, 'stream': False,
      'top_k': 3, 'top_p': 0.5, 'best_of': 1, 'suffix': None, 'model': 'x',
    },
    '/attention': {'prompt': 'It was', 'layer': 0, 'head': 0},
    '/tokenize': {'prompt': 'It was'},
    '/detokenize': {'tokens': [1, 2, 3]},
  }  # fmt: skip

  def requests(rng: Rng) -> None:
    path = rng.choice(sorted(seeds))
    body = mutate_json(json.dumps(seeds[path]).encode(), rng)
    if path == '/v1/completions' and _is_long(run, body):
      return
    status, answer = asyncio.run(_post(server, path, body))
    if status in (400, 429):
      raise UserError(json.loads(answer)['error']['message'])
    expect(status == 200, f'status {status}: {answer[:300]!r}')
    if answer.startswith(b'data: '):
      expect(b'"error"' not in answer, f'{answer[:300]!r}')
    else:
      json.loads(answer)

  yield 'requests', 3, requests


def _is_long(run: Run, body: bytes) -> bool:
  """Returns True if a request is right, but takes longer than a trial may."""
  try:
    asked = completions.Request.model_validate_json(body)
    found = completions.samples(run, asked)
  except (pydantic.ValidationError, completions.LimitError, UserError):
    return False
  return len(found) * (asked.max_tokens or 16) > 64


async def _post(server: Any, path: str, body: bytes) -> tuple[int, bytes]:
  """Sends a request to an ASGI application."""
  sent: list[dict[str, Any]] = []
  scope = {
    'type': 'http', 'asgi': {'version': '3.0'}, 'http_version': '1.1',
    'method': 'POST', 'scheme': 'http', 'path': path, 'query_string': b'',
    'headers': [], 'server': ('127.0.0.1', 80), 'client': ('127.0.0.1', 1),
  }  # fmt: skip
  parts = iter([{'type': 'http.request', 'body': body, 'more_body': False}])

  async def receive() -> dict[str, Any]:
    for part in parts:
      return part
    await asyncio.sleep(600)  # connected until the answer is complete
    return {'type': 'http.disconnect'}

  async def send(message: Any) -> None:
    sent.append(message)

  await server(scope, receive, send)
  return sent[0]['status'], b''.join(m.get('body', b'') for m in sent)


def setting_readers() -> Iterator[Entry]:
  """Yields the readers of flags."""
  presets = {
    'pretrain.py:tiny': config_lib.PretrainConfig,
    'pretrain.py:lstm,tiny': config_lib.PretrainConfig,
    'finetune.py:cola,tiny': config_lib.FinetuneConfig,
  }
  loaded = {
    name: cli.config_values(f'{checkout.ROOT}/configs/{name}')
    for name in presets
  }

  def settings(rng: Rng) -> None:
    name = rng.choice(sorted(presets))
    values = copy.deepcopy(loaded[name])
    values['data']['path'] = values['init_from'] = 'x'
    for _ in range(rng.choice((1, 1, 2, 3))):
      key = rng.choice([key for key, _ in config_lib._flat(values, '')])
      text = rng.choice((_shown(odd_value(rng)), '1e-3', '2', 'auto'))
      text = mutate(text.encode('utf-8', 'replace'), rng).decode('latin-1')
      cli._set(values, key[1:], text)
    found: Any = config_lib.parse(presets[name], values)
    storage.to_json(config_lib.as_dict(found))

  def generation(rng: Rng) -> None:
    values: Any = {
      'max_tokens': 2, 'temperature': 0.5, 'top_k': 3, 'top_p': 0.5, 'seed': 1,
      'stop': ['x'],
    }  # fmt: skip
    found: Any = mutate_value(values, rng)
    if isinstance(found, dict):
      values = found
    options.parse(values)

  yield '--config.KEY=VALUE', 8, settings
  yield 'options of generate', 2, generation


def _shown(value: object) -> str:
  try:
    return str(value)
  except ValueError:  # an integer of more than 4,300 digits
    return '9' * 5000
