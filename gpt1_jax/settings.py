"""Sections of a configuration that both stages share, each a frozen dataclass.

pydantic checks types and bounds when one is built; `config.parse` collects the
mistakes. In the docstrings P is the paper and C the released code.
"""

from typing import Annotated, Literal

import pydantic
from pydantic import Field

AtLeastOne = Annotated[int, Field(ge=1)]
Count = Annotated[int, Field(ge=0)]
DropoutRate = Annotated[float, Field(ge=0, lt=1)]
Seed = Annotated[int, Field(ge=0, lt=2**31)]
Dtype = Literal['float32', 'bfloat16']

# A section has no unknown key, no missing one, and no value of another type.
STRICT = pydantic.ConfigDict(strict=True, extra='forbid', allow_inf_nan=False)


@pydantic.dataclasses.dataclass(frozen=True, kw_only=True, config=STRICT)
class FinetuneGPTSettings:
  """config.model of fine-tuning a GPT; its shape is the pretrained run's.

  Attributes:
    kind: 'gpt'.
    embd_pdrop, attn_pdrop, resid_pdrop: dropout rates of the embeddings, the
      attention probabilities and both residual branches (P §4.1: 0.1).
    embedding_dropout: 'sum' drops the summed embeddings (P §4.1), 'matrix' the
      embedding matrix, for the look-up and the logits (C: train.py).
    softmax_rows: rows of the matrix that the LM softmax covers: 'tokens'
      (P §3.1) or 'all', specials and positions included (C: train.py).
    dtype: type of the computation; parameters are always float32.
  """

  kind: Literal['gpt']
  embd_pdrop: DropoutRate
  attn_pdrop: DropoutRate
  resid_pdrop: DropoutRate
  embedding_dropout: Literal['sum', 'matrix']
  softmax_rows: Literal['tokens', 'all']
  dtype: Dtype


@pydantic.dataclasses.dataclass(frozen=True, kw_only=True, config=STRICT)
class GPTSettings(FinetuneGPTSettings):
  """config.model of pretraining a GPT.

  Attributes:
    n_layer, n_head, n_embd: blocks, attention heads, width (P §4.1: 12, 12,
      768).
    n_ctx: context in tokens (P §4.1: 512).
    attention: 'plain', 'flash' (the Pallas kernel of model/flash.py, on a TPU)
      or 'auto': the kernel wherever it runs.
    remat: what the backward pass recomputes: 'none'; 'dots', everything but
      matrix products; 'full', each block; 'auto': 'dots' where blocks are
      looped over, else 'none'.
    unroll: blocks in one iteration of the loop over layers; 1 compiles
      fastest, n_layer has no loop.
  """

  n_layer: AtLeastOne
  n_head: AtLeastOne
  n_embd: AtLeastOne
  n_ctx: AtLeastOne
  attention: Literal['auto', 'plain', 'flash']
  remat: Literal['auto', 'none', 'dots', 'full']
  unroll: AtLeastOne

  @pydantic.model_validator(mode='after')
  def _heads_divide_width(self) -> 'GPTSettings':
    if self.n_embd % self.n_head:
      raise ValueError(
        f'n_embd {self.n_embd} does not divide into n_head {self.n_head} heads'
      )
    return self


@pydantic.dataclasses.dataclass(frozen=True, kw_only=True, config=STRICT)
class GPTConfig(GPTSettings):
  """A GPT as it is built; checkpoints record it.

  Attributes:
    vocab_size: rows of text in the embedding, from the tokenizer.
    n_special: rows after them for start, delimiter and extract (P §3.3): 0 in
      pretraining, 3 in fine-tuning.
  """

  vocab_size: AtLeastOne
  n_special: Count

  @property
  def token_rows(self) -> int:
    """Rows of the token embedding: text and specials."""
    return self.vocab_size + self.n_special

  @property
  def looped(self) -> bool:
    """True if the blocks run in a loop, False if each has its own code."""
    return self.unroll < self.n_layer

  @property
  def divided(self) -> dict[str, int]:
    """Sizes that axes of the mesh must divide; see sharding.check_divides."""
    return {'n_embd': self.n_embd, 'n_head': self.n_head}


@pydantic.dataclasses.dataclass(frozen=True, kw_only=True, config=STRICT)
class FinetuneLSTMSettings:
  """config.model of fine-tuning the LSTM of P §5; its shape is the run's.

  Attributes:
    kind: 'lstm'.
    embd_pdrop, output_pdrop: dropout rates of embeddings and outputs.
    dtype: type of the computation.
  """

  kind: Literal['lstm']
  embd_pdrop: DropoutRate
  output_pdrop: DropoutRate
  dtype: Dtype


@pydantic.dataclasses.dataclass(frozen=True, kw_only=True, config=STRICT)
class LSTMSettings(FinetuneLSTMSettings):
  """config.model of pretraining the LSTM of P §5 and Table 5.

  Attributes:
    units: width of the one layer (P §5: 2,048).
    n_embd: width of the embeddings and of the tied softmax.
    n_ctx: context in tokens.
  """

  units: AtLeastOne
  n_embd: AtLeastOne
  n_ctx: AtLeastOne


@pydantic.dataclasses.dataclass(frozen=True, kw_only=True, config=STRICT)
class LSTMConfig(LSTMSettings):
  """An LSTM as it is built; see GPTConfig for the two keys it adds."""

  vocab_size: AtLeastOne
  n_special: Count

  @property
  def token_rows(self) -> int:
    """Rows of the token embedding: text and specials."""
    return self.vocab_size + self.n_special

  @property
  def n_layer(self) -> int:
    """Layers, for code that asks either kind of model."""
    return 1

  @property
  def divided(self) -> dict[str, int]:
    """Sizes that axes of the mesh must divide; see sharding.check_divides."""
    return {'n_embd': self.n_embd, 'units': self.units}


ModelConfig = GPTConfig | LSTMConfig


@pydantic.dataclasses.dataclass(frozen=True, kw_only=True, config=STRICT)
class OptimSettings:
  """config.optim: Adam with decoupled weight decay, and its learning rate.

  Attributes:
    variant: 'paper' reads P plainly (optax.adamw); 'openai' does what the
      released opt.py does (docs/reference.md §3).
    schedule: 'cosine' (P §4.1, pretraining) or 'linear' (fine-tuning).
    peak_lr: learning rate after the warm-up.
    warmup: updates if at least 1, else a share of all updates.
    b1, b2, eps: Adam's constants (C: opt.py).
    weight_decay: decoupled L2 on every weight but biases and gains (P §4.1).
    clip_norm: global norm that gradients are clipped to; 0 switches it off.
  """

  variant: Literal['paper', 'openai']
  schedule: Literal['cosine', 'linear']
  peak_lr: Annotated[float, Field(gt=0, le=1e3)]
  warmup: Annotated[float, Field(ge=0)]
  b1: Annotated[float, Field(ge=0, lt=1)]
  b2: Annotated[float, Field(ge=0, lt=1)]
  eps: Annotated[float, Field(gt=0)]
  weight_decay: Annotated[float, Field(ge=0)]
  clip_norm: Annotated[float, Field(ge=0)]


@pydantic.dataclasses.dataclass(frozen=True, kw_only=True, config=STRICT)
class TrainSettings:
  """What config.train has in both stages.

  Attributes:
    num_steps, num_epochs: length of the run; exactly one is set, the other 0.
    log_every, eval_every: in updates.
    keep: latest checkpoints that stay on disk.
    microbatches: parts of a batch that are computed one after another.
    seed: of the initial weights and of dropout.
  """

  num_steps: Count
  num_epochs: Annotated[float, Field(ge=0)]
  log_every: AtLeastOne
  eval_every: Count
  keep: AtLeastOne
  microbatches: AtLeastOne
  seed: Seed

  @pydantic.model_validator(mode='after')
  def _one_length(self) -> 'TrainSettings':
    if (self.num_steps > 0) == (self.num_epochs > 0):
      raise ValueError(
        f'num_steps is {self.num_steps} and num_epochs is {self.num_epochs}: '
        'set exactly one of them, and the other to 0'
      )
    return self

  def updates(self, steps_per_epoch: float) -> int:
    """Returns the updates of the whole run."""
    return self.num_steps or max(1, round(self.num_epochs * steps_per_epoch))


@pydantic.dataclasses.dataclass(frozen=True, kw_only=True, config=STRICT)
class MeshSettings:
  """config.mesh: sizes of the axes data, fsdp and tensor.

  One of them may be -1: it takes the devices that the others leave.
  """

  data: int
  fsdp: int
  tensor: int

  @pydantic.model_validator(mode='after')
  def _sizes(self) -> 'MeshSettings':
    sizes = (self.data, self.fsdp, self.tensor)
    if any(size < 1 and size != -1 for size in sizes) or sizes.count(-1) > 1:
      raise ValueError(
        f'{"x".join(map(str, sizes))} (data x fsdp x tensor): sizes are '
        'positive, one may be -1'
      )
    return self
