"""EleutherAI's lm-eval computes our log-likelihoods on an exported run.

The task is the paper's zero-shot SST-2 (P §5), described for lm-eval, which
loads a Hugging Face folder of random weights with its own code. Ours are those
that `evaluate --suite=zero_shot` writes, with the softmax over tokens: the
`openai` preset also covers rows of positions, which no exported model has.
Skips without the peers.
"""

import itertools
import json
import os
import warnings

import numpy as np
import pytest

from gpt1_jax.corpus import (
  cleaning,
  documents,
  inputs,
  sentencepiece_tokenizer,
)
from gpt1_jax.tasks.zero_shot import evaluation, results
from tests.support import released, transformers_folder

pytestmark = [
  pytest.mark.peers,
  pytest.mark.slow,
  # The harness and its dependencies warn.
  pytest.mark.filterwarnings('ignore'),
]
NEEDED = "needs the peers: pip install -e '.[test,openai,peers]'"
os.environ['HF_HUB_OFFLINE'] = '1'
with warnings.catch_warnings():  # about its own code
  warnings.simplefilter('ignore')
  lm_eval = pytest.importorskip('lm_eval', reason=NEEDED)
  huggingface = pytest.importorskip('lm_eval.models.huggingface', reason=NEEDED)
  from lm_eval.api import task as lm_eval_task

WORDS = ('negative', 'positive')
PARTS = (
  ('the plot', 'a long second act', 'her dry narration', "the film 's music"),
  ('drags', 'sparkles , again and again', 'is never less than honest'),
  ('.', ', and that is all there is .', 'from the first frame to the last !'),
)
SENTENCES = [
  {'sentence': ' '.join(parts), 'label': number % 2}
  for number, parts in enumerate(itertools.product(*PARTS))
]


def test_log_likelihoods(tmp_path):
  texts = documents.read_all(inputs.find(['builtin:python-reference']), 'text')
  words = sentencepiece_tokenizer.count_words(
    cleaning.clean(cleaning.paragraphs(document.text())) for document in texts
  )
  bpe = sentencepiece_tokenizer.train(words, 3000)
  released.new_run(
    tmp_path / 'run',
    bpe,
    std=0.1,
    softmax_rows='tokens',
    **released.SMALL | {'n_ctx': 96},
  )
  transformers_folder.write_and_load(tmp_path / 'run', tmp_path / 'hf')
  rows = tmp_path / 'rows.jsonl'
  rows.write_text(''.join(json.dumps(row) + '\n' for row in SENTENCES))
  task = lm_eval_task.ConfigurableTask(
    config={
      'task': 'sst2_very',
      'dataset_path': 'json',
      'dataset_kwargs': {'data_files': {'test': str(rows)}},
      'test_split': 'test',
      'output_type': 'multiple_choice',
      'doc_to_text': '{{sentence}} very',
      'doc_to_target': 'label',
      'doc_to_choice': list(WORDS),
      'metric_list': [{'metric': 'acc'}],
    }
  )
  results = lm_eval.simple_evaluate(
    model=huggingface.HFLM(
      pretrained=str(tmp_path / 'hf'),
      device='cpu',
      batch_size=8,
      prefix_token_id=bpe.document_id,  # asked for, not used: no text is empty
    ),
    tasks=[task],
    bootstrap_iters=0,
  )
  samples = results['samples']['sst2_very']
  theirs = {
    sample['doc']['sentence']: [
      float(response[0][0]) for response in sample['resps']
    ]
    for sample in samples
  }
  assert len(theirs) == len(SENTENCES)
  (tmp_path / 'SST-2').mkdir()
  lines = [f'{row["sentence"]}\t{row["label"]}\n' for row in SENTENCES]
  dev = ''.join(['sentence\tlabel\n', *lines])
  (tmp_path / 'SST-2' / 'dev.tsv').write_text(dev)
  ours = zero_shot(tmp_path / 'run', tmp_path)
  want = [theirs[row['sentence']] for row in SENTENCES]
  np.testing.assert_allclose(ours, want, rtol=0, atol=1e-4)


def zero_shot(workdir, tasks_path) -> list[list[float]]:
  """Returns what `evaluate` compared for each sentence of dev."""
  evaluation.evaluate(str(workdir), str(tasks_path), ['sst2'], [None], 8)
  (answers,) = (workdir / results.ANSWERS).glob('sst2-*.tsv')
  rows = [line.split('\t') for line in answers.read_text().splitlines()[1:]]
  return [[float(x) for x in row[-1].split()] for row in rows]
