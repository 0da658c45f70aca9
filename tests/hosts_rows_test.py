"""Hosts read their own rows of a batch."""

import json

import pytest

from gpt1_jax.corpus import shards
from tests.support import host_jobs

READS = """
import json, sys
from gpt1_jax import cli, cluster
from gpt1_jax.corpus import shards, windows
from gpt1_jax.train import sharding
import jax, numpy as np
from jax.experimental import multihost_utils

out = sys.argv.pop(1)
tokens, read = shards.Tokens(sys.argv.pop(1), 'validation'), []
plain = tokens.read
tokens.read = lambda start, count: read.append(start) or plain(start, count)

def main():
  with cluster.connected():
    found = {}
    for sizes in ((4, 1, 1), (2, 1, 2), (1, 4, 1), (1, 1, 4), (1, 2, 2)):
      mesh = sharding.make_mesh(
        jax.devices(), **dict(zip(sharding.MESH_AXES, sizes)))
      rows = list(sharding.host_rows(mesh, 8))
      split = windows.Windows(
        tokens, n_ctx=32, batch_size=8, cross_documents=True, seed=None,
        rows=rows)
      read.clear()
      targets = []
      for step in range(split.steps_per_epoch):
        batch = sharding.put_batch(split.batch(step), mesh)
        batch = jax.tree.map(
          lambda x: multihost_utils.process_allgather(x, tiled=True), batch)
        targets += batch['tokens'][batch['lm_weights'] > 0].tolist()
      found['x'.join(map(str, sizes))] = {
        'rows': rows, 'read': sorted(read), 'targets': targets}
    with open(f'{out}/{jax.process_index()}.json', 'w') as file:
      json.dump(found, file)
cli.run(main)
"""


@pytest.mark.slow
def test_hosts_read_their_own_rows_and_count_each_target_once(tmp_path):
  data = host_jobs.prepare(tmp_path / 'data')
  host_jobs.run(2, 2, '-c', READS, tmp_path, data)
  one, two = (
    json.loads((tmp_path / f'{i}.json').read_text()) for i in range(2)
  )
  stream = shards.Tokens(data, 'validation')
  stream = stream.read(0, stream.num_tokens).tolist()
  for name, a in one.items():
    b = two[name]
    assert a['targets'] == b['targets'] == stream[1:]
    shared = name.endswith('1x4')
    assert a['rows'] == (list(range(8)) if shared else [0, 1, 2, 3])
    assert b['rows'] == (list(range(8)) if shared else [4, 5, 6, 7])
    assert bool(set(a['read']) & set(b['read'])) == shared
    assert len({*a['read'], *b['read']}) == -(-(len(stream) - 1) // 31)
