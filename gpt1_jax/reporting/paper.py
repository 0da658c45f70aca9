"""Lists the scores that the paper reports in its Tables 2 to 5, in percent.

P is Radford, Narasimhan, Salimans, Sutskever 2018 (docs/reference.md §4).
Beside each score stands the best earlier score of the same column, with its
method's name (5x: an ensemble of five).
"""

import dataclasses


@dataclasses.dataclass(frozen=True)
class Score:
  """One column of Table 2, 3 or 4.

  Attributes:
    score: test score of GPT-1.
    suffix: suffix of the task's splits for this column ('_mismatched').
    fallback: another task that holds only the examples of this column; its
      splits have no suffix.
  """

  column: str
  task: str
  metric: str
  score: float
  earlier: float
  earlier_by: str
  suffix: str = ''
  fallback: str = ''


_SAN = 'Stochastic Answer Network (3x)'
_SINGLE = 'Single-task BiLSTM + ELMo + Attn'
_MULTI = 'Multi-task BiLSTM + ELMo + Attn'
_MRU = 'BiAttention MRU (9x)'

# fmt: off
# P §4.2, Table 2.
TABLE_2 = (
  Score('MNLI-m', 'mnli', 'accuracy', 82.1, 80.6, _SAN),
  Score('MNLI-mm', 'mnli', 'accuracy', 81.4, 80.1, _SAN, '_mismatched'),
  Score('SNLI', 'snli', 'accuracy', 89.9, 89.3, 'ESIM + ELMo (5x), CAFE (5x)'),
  Score('SciTail', 'scitail', 'accuracy', 88.3, 83.3, 'CAFE'),
  Score('QNLI', 'qnli', 'accuracy', 88.1, 82.3, 'GenSen'),
  Score('RTE', 'rte', 'accuracy', 56.0, 61.7, 'Multi-task BiLSTM + Attn'),
)
# P §4.2, Table 3.
TABLE_3 = (
  Score('Story Cloze', 'story_cloze', 'accuracy', 86.5,
        77.6, 'Hidden Coherence Model'),
  Score('RACE-m', 'race', 'accuracy', 62.9, 60.2, _MRU,
        '_middle', 'race_middle'),
  Score('RACE-h', 'race', 'accuracy', 57.4, 50.3, _MRU, '_high', 'race_high'),
  Score('RACE', 'race', 'accuracy', 59.0, 53.3, _MRU),
)
# P §4.2, Table 4, without its column GLUE.
TABLE_4 = (
  Score('CoLA', 'cola', 'matthews', 45.4, 35.0, _SINGLE),
  Score('SST-2', 'sst2', 'accuracy', 91.3, 93.2, 'Sparse byte mLSTM'),
  Score('MRPC', 'mrpc', 'f1', 82.3, 86.0, 'TF-KLD'),
  Score('STS-B', 'stsb', 'pearson', 82.0, 81.0, 'ECNU (mixed ensemble)'),
  Score('QQP', 'qqp', 'f1', 70.3, 66.1, _SINGLE),
)
# The column of each task; MNLI's is the matched one.
COLUMNS = {c.task: c for c in (*TABLE_2, *TABLE_3, *TABLE_4) if not c.suffix}
GLUE, GLUE_EARLIER, GLUE_EARLIER_BY = 72.8, 68.9, _MULTI

# P §5, Table 5: the unweighted average, then a score for each task. MNLI is the
# mean of 82.1 and 81.4, which the paper does not state.
TABLE_5_TASKS = (
  'cola', 'sst2', 'mrpc', 'stsb', 'qqp', 'mnli', 'qnli', 'rte',
)
TABLE_5_COLUMNS = (
  'CoLA', 'SST-2', 'MRPC', 'STS-B', 'QQP', 'MNLI', 'QNLI', 'RTE',
)
FULL = 'full'  # Transformer, pretrained, with the auxiliary LM
NO_PRETRAINING = 'no pretraining'
NO_AUXILIARY = 'no auxiliary LM'
LSTM = 'LSTM'  # pretrained, with the auxiliary LM
LAYERS = 'some layers'  # Figure 2, left: only some layers transferred
OTHER = 'other'  # two of these changes at once: not in the paper
TABLE_5 = {
  FULL: (74.7, (45.4, 91.3, 82.3, 82.0, 70.3, 81.8, 88.1, 56.0)),
  NO_PRETRAINING: (59.9, (18.9, 84.0, 79.4, 30.9, 65.5, 75.7, 71.2, 53.8)),
  NO_AUXILIARY: (75.0, (47.9, 92.0, 84.9, 83.2, 69.8, 81.1, 86.9, 54.4)),
  LSTM: (69.1, (30.3, 90.5, 83.2, 71.8, 68.1, 73.7, 81.1, 54.6)),
}
# fmt: on

# P §4.1, or derived from the shapes, the batch and the 100 epochs
# (docs/reference.md §1).
PARAMETERS = 116_534_784
UPDATES, TOKENS_SEEN = 3.4e6, 3.4e6 * 64 * 512
PERPLEXITY = 18.4  # per token of BooksCorpus
EPOCHS = 100  # P §4.1
CORPUS_WORDS = 985e6  # BooksCorpus; Zhu et al. 2015 (arXiv:1506.06724), table 2
