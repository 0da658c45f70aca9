"""Declares configuration sections that both stages share.

They are frozen dataclasses. pydantic checks types and bounds when one is built;
`config.parse` reports all errors together. In the docstrings P is the paper and
C the released code.
"""

from typing import Annotated, Literal

import pydantic
from pydantic import Field

AtLeastOne = Annotated[int, Field(ge=1, lt=2**31)]
Count = Annotated[int, Field(ge=0, lt=2**31)]
Layers = Annotated[int, Field(ge=1, le=1000)]
Size = Annotated[int, Field(ge=1, le=2**20)]
DropoutRate = Annotated[float, Field(ge=0, lt=1)]
# In float32, 1 - 1e-8 is 1, and 1e-40 may be 0.
AdamDecay = Annotated[float, Field(ge=0, le=0.999999)]
Minutes = Annotated[float, Field(ge=0, le=1e6)]
Seed = Annotated[int, Field(ge=0, lt=2**31)]
Dtype = Literal['float32', 'bfloat16']

# Rejects unknown keys, missing keys and values of the wrong type.
STRICT = pydantic.ConfigDict(strict=True, extra='forbid', allow_inf_nan=False)


@pydantic.dataclasses.dataclass(frozen=True, kw_only=True, config=STRICT)
class FinetuneGPTSettings:
  """config.model for fine-tuning a GPT; the pretrained run sets its shape.

  Attributes:
    kind: 'gpt'.
    embd_pdrop: dropout rate of the embeddings (P §4.1: 0.1).
    attn_pdrop: dropout rate of the attention probabilities (P §4.1: 0.1).
    resid_pdrop: dropout rate of both residual branches (P §4.1: 0.1).
    embedding_dropout: 'sum' applies dropout to the summed embeddings (P §4.1);
      'matrix' applies it to the embedding matrix, which affects both lookup and
      logits (C: train.py).
    softmax_rows: embedding rows that the LM softmax covers: 'tokens' (P §3.1),
      or 'all', which includes special tokens and positions (C: train.py).
    dtype: compute dtype; parameters are always float32.
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
  """config.model for pretraining a GPT.

  Attributes:
    n_layer: blocks (P §4.1: 12).
    n_head: attention heads of a block (P §4.1: 12).
    n_embd: width (P §4.1: 768).
    n_ctx: context length in tokens (P §4.1: 512).
    attention: 'plain', 'flash' (the Pallas kernels: model/flash.py on a TPU,
      model/flash_gpu.py on a GPU), or 'auto', which uses the kernel on a TPU
      where it is available; the GPU kernels have not run on a card yet.
    remat: recomputation in the backward pass: 'none'; 'dots' recomputes
      everything except matrix products; 'dots_except_qkv' also recomputes the
      product that gives queries, keys and values; 'full' recomputes each block;
      'auto' is 'none' on a CPU if the layers run without a loop, else 'dots'.
    unroll: blocks per iteration of the layer loop; 1 compiles fastest, n_layer
      removes the loop.
  """

  n_layer: Layers
  n_head: Size
  n_embd: Size
  n_ctx: Size
  attention: Literal['auto', 'plain', 'flash']
  remat: Literal['auto', 'none', 'dots', 'dots_except_qkv', 'full']
  unroll: Layers

  @pydantic.model_validator(mode='after')
  def _heads_divide_width(self) -> 'GPTSettings':
    if self.n_embd % self.n_head:
      raise ValueError(
        f'n_embd {self.n_embd} is not divisible by n_head {self.n_head}'
      )
    return self


@pydantic.dataclasses.dataclass(frozen=True, kw_only=True, config=STRICT)
class GPTConfig(GPTSettings):
  """The full configuration of a GPT, as recorded in checkpoints.

  Attributes:
    vocab_size: text tokens in the tokenizer's vocabulary.
    n_special: embedding rows after the text tokens for start, delimiter and
      extract (P §3.3): 0 in pretraining, 3 in fine-tuning.
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
    """Sizes that axes of the mesh must divide; see `sharding.check_divides`."""
    return {'n_embd': self.n_embd, 'n_head': self.n_head}


@pydantic.dataclasses.dataclass(frozen=True, kw_only=True, config=STRICT)
class FinetuneLSTMSettings:
  """config.model for fine-tuning the LSTM (P §5); the run sets its shape.

  Attributes:
    kind: 'lstm'.
    embd_pdrop: dropout rate of the embeddings.
    output_pdrop: dropout rate of the outputs.
    dtype: compute dtype; parameters are always float32.
  """

  kind: Literal['lstm']
  embd_pdrop: DropoutRate
  output_pdrop: DropoutRate
  dtype: Dtype


@pydantic.dataclasses.dataclass(frozen=True, kw_only=True, config=STRICT)
class LSTMSettings(FinetuneLSTMSettings):
  """config.model for pretraining the LSTM (P §5, Table 5).

  Attributes:
    units: width of the single layer (P §5: 2,048).
    n_embd: width of the embeddings and the tied softmax.
    n_ctx: context length in tokens.
  """

  units: Size
  n_embd: Size
  n_ctx: Size


@pydantic.dataclasses.dataclass(frozen=True, kw_only=True, config=STRICT)
class LSTMConfig(LSTMSettings):
  """The full configuration of an LSTM; `GPTConfig` describes the added keys."""

  vocab_size: AtLeastOne
  n_special: Count

  @property
  def token_rows(self) -> int:
    """Rows of the token embedding: text and specials."""
    return self.vocab_size + self.n_special

  @property
  def n_layer(self) -> int:
    """Number of layers: always 1. GPTConfig has the same attribute."""
    return 1

  @property
  def divided(self) -> dict[str, int]:
    """Sizes that axes of the mesh must divide; see `sharding.check_divides`."""
    return {'n_embd': self.n_embd, 'units': self.units}


ModelConfig = GPTConfig | LSTMConfig


@pydantic.dataclasses.dataclass(frozen=True, kw_only=True, config=STRICT)
class OptimSettings:
  """config.optim: Adam with decoupled weight decay, and its learning rate.

  Attributes:
    variant: 'paper' follows P literally (optax.adamw); 'openai' reproduces the
      released opt.py (docs/reference.md §3).
    schedule: 'cosine' (P §4.1, pretraining) or 'linear' (fine-tuning).
    peak_lr: learning rate after the warm-up.
    warmup: number of updates if at least 1, else a fraction of all updates.
    b1, b2: decay rates of Adam's first and second moment (C: opt.py).
    eps: added to the root of Adam's second moment (C: opt.py).
    weight_decay: decoupled weight decay on everything except biases and gains
      (P §4.1).
    clip_norm: maximum global gradient norm; 0 disables clipping.
  """

  variant: Literal['paper', 'openai']
  schedule: Literal['cosine', 'linear']
  peak_lr: Annotated[float, Field(ge=1e-30, le=1e3)]
  warmup: Annotated[float, Field(ge=0, lt=2**31)]
  b1: AdamDecay
  b2: AdamDecay
  eps: Annotated[float, Field(ge=1e-30, le=1e3)]
  weight_decay: Annotated[float, Field(ge=0, le=1e3)]
  clip_norm: Annotated[float, Field(ge=0, le=1e30)]


@pydantic.dataclasses.dataclass(frozen=True, kw_only=True, config=STRICT)
class TrainSettings:
  """Keys of config.train that both stages have.

  Attributes:
    num_steps, num_epochs: length of the run; set one and leave the other 0.
    log_every: updates between rows of metrics.jsonl.
    eval_every: updates between evaluations.
    checkpoint_minutes: minutes after which a checkpoint is saved at the latest;
      0 means never.
    stall_minutes: minutes without a finished update after which a run counts as
      stuck and ends with exit code 75, not counting compilation; 0 means never.
    keep: number of latest checkpoints to keep.
    microbatches: sequential parts that a batch is split into (gradient
      accumulation).
    seed: seeds the initial weights and dropout.
    skip_nonfinite: maximum number of updates to skip because their loss or
      gradient is infinite or NaN; one more ends the run. Each start counts from
      0.
    wandb: project of Weights & Biases that shows the run; '' sends nothing
      (extra `wandb`; with WANDB_MODE=offline the run stays in WORKDIR/wandb).
  """

  num_steps: Count
  num_epochs: Annotated[float, Field(ge=0, le=1e6)]
  log_every: AtLeastOne
  eval_every: Count
  checkpoint_minutes: Minutes
  stall_minutes: Minutes
  keep: AtLeastOne
  microbatches: AtLeastOne
  seed: Seed
  skip_nonfinite: Count
  wandb: str = ''

  @pydantic.model_validator(mode='after')
  def _one_length(self) -> 'TrainSettings':
    if (self.num_steps > 0) == (self.num_epochs > 0):
      raise ValueError(
        f'num_steps is {self.num_steps} and num_epochs is {self.num_epochs}: '
        'set exactly one, and the other to 0, such as '
        '--config.train.num_epochs=0 for a run of num_steps updates'
      )
    return self

  def updates(self, steps_per_epoch: float) -> int:
    """Returns the total number of updates."""
    return self.num_steps or max(1, round(self.num_epochs * steps_per_epoch))


@pydantic.dataclasses.dataclass(frozen=True, kw_only=True, config=STRICT)
class MeshSettings:
  """config.mesh: the shape of the device mesh.

  Attributes:
    data: devices that divide the batch. -1, allowed for one of the three axes,
      takes all remaining devices.
    fsdp: devices that divide the batch and the parameters; -1 as for data.
    tensor: devices that divide the heads and the width; -1 as for data.
    shard_optimizer: True divides Adam's moments and its work over the data axis
      too (ZeRO-1): gradients are reduce-scattered, parameters gathered.
    reduce_dtype: type in which devices sum gradients. 'bfloat16' rounds to 8
      significant bits, needs model.dtype 'bfloat16', and halves what is sent.
      The sums of biases, norms and, over data, the embedding stay float32,
      unless data > 1 with microbatches > 1 or shard_optimizer.
  """

  data: int
  fsdp: int
  tensor: int
  shard_optimizer: bool
  reduce_dtype: Dtype = 'float32'  # older runs do not have the setting

  @property
  def axes(self) -> dict[str, int]:
    """Returns the size of each axis."""
    return {'data': self.data, 'fsdp': self.fsdp, 'tensor': self.tensor}

  def check_reduce_dtype(self, dtype: Dtype) -> None:
    """Raises ValueError if gradients are not computed in `reduce_dtype`."""
    if self.reduce_dtype == 'bfloat16' != dtype:
      raise ValueError(
        "mesh.reduce_dtype is 'bfloat16': needs --config.model.dtype=bfloat16"
      )

  @pydantic.model_validator(mode='after')
  def _sizes(self) -> 'MeshSettings':
    sizes = tuple(self.axes.values())
    if any(size < 1 and size != -1 for size in sizes) or sizes.count(-1) > 1:
      raise ValueError(
        f'{"x".join(map(str, sizes))} (data x fsdp x tensor): sizes must be '
        'positive; one may be -1'
      )
    return self
