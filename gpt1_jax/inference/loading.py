"""Loads a model for use from Python.

    import gpt1_jax

    run = gpt1_jax.load('runs/mini')
    print(run.generate('It was a dark', max_tokens=40, seed=1))

See `Run` for all methods.
"""

import operator
import os
import warnings
from collections.abc import Iterable, Iterator, Sequence
from typing import Unpack

import jax
import numpy as np

from gpt1_jax import staging, storage
from gpt1_jax.corpus import tokenization
from gpt1_jax.errors import UserError
from gpt1_jax.inference import continuation, options as options_lib
from gpt1_jax.inference.continuation import Continuation, Piece
from gpt1_jax.interop import conversion
from gpt1_jax.model import continuous, decoding, inspection, models
from gpt1_jax.settings import GPTConfig, ModelConfig
from gpt1_jax.tasks import labelling
from gpt1_jax.train import belonging, checkpoint

TextLike = str | Sequence[int]  # a text, or its token ids


class Run:
  """A trained model with its tokenizer; see `load`.

  Every method that takes a text also takes token ids. The text is cleaned and
  lower-cased as in training.

  Attributes:
    name: path that it was loaded from.
    config: configuration of the model.
    step: updates applied; 0 if unknown.
    task: name of the fine-tuning task; None if the run was not fine-tuned.
    tokenizer: `encode(text)` returns ids, `decode(ids)` text.
  """

  def __init__(
    self,
    name: str,
    found: checkpoint.Checkpoint,
    tokenizer: tokenization.Tokenizer,
  ):
    """Places the weights on the device; call `load` instead."""
    self.name = name
    self.config: ModelConfig = found.meta.model
    self.step: int = found.step
    self.task: str | None = found.meta.task
    self.tokenizer = tokenizer
    self._labeller: labelling.Labeller | None = None
    self._model, self._params = decoding.prepared(
      found.params['gpt'], self.config
    )

  def __repr__(self) -> str:
    count = models.num_parameters(self.config)
    task = f', fine-tuned on {self.task}' if self.task else ''
    return f'<Run {self.name}: {count:,} parameters{task}>'

  def encode(self, text: TextLike) -> list[int]:
    """Returns token ids; for an empty text, the ids that begin a document.

    Raises:
      UserError: an id is outside the vocabulary.
    """
    ids = self.ids(text)
    return ids or [self.tokenizer.document_id]

  def ids(self, text: TextLike) -> list[int]:
    """Returns token ids, none for an empty text; checks ids passed in."""
    if isinstance(text, str):
      return self.tokenizer.encode(text)
    if isinstance(text, bytes):
      raise UserError('give a text as str, not as bytes')
    try:
      ids = list(map(operator.index, text))
    except TypeError:
      raise UserError('give a text, or a list of token ids') from None
    for i in ids:
      if not 0 <= i < self.config.token_rows:
        raise UserError(
          f'token id {i} is outside 0..{self.config.token_rows - 1}'
        )
    return ids

  def tokens(self, text: TextLike) -> list[str]:
    """Returns the text that each token adds; joined, they are the text."""
    return continuation.pieces(self.tokenizer, self.encode(text))

  def logits(self, text: TextLike) -> np.ndarray:
    """Returns float32 [T, V]: row t holds the logits of the token after t.

    Raises:
      UserError: the text is longer than the model's context.
    """
    tokens_1T, T = self._one(text)
    return np.asarray(
      inspection.logits(self._model, self._params, tokens_1T)[0, :T]
    )

  def hidden_states(self, text: TextLike) -> np.ndarray:
    """Returns [L + 1, T, D]: the embedding, then each block's output.

    `logits` is the last one times the transposed token embedding.
    """
    self._need_gpt('hidden states of blocks')
    tokens_1T, T = self._one(text)
    found = inspection.hidden_states(self._model, self._params, tokens_1T)
    return np.asarray(found[:, 0, :T].astype('float32'))

  def attentions(self, text: TextLike) -> np.ndarray:
    """Returns float32 [L, H, T, T]: the weight of each key for each query.

    `attentions(text)[layer, head, t]` sums to 1; keys after t have weight 0.
    """
    self._need_gpt('attention')
    tokens_1T, T = self._one(text)
    found = inspection.attentions(self._model, self._params, tokens_1T)
    return np.asarray(found[:, 0, :, :T, :T])

  def score(self, text: TextLike) -> np.ndarray:
    """Returns float32 [T], the log-probability of each token in nats.

    The text is scored as a whole document, so its first token has a probability
    too. A text longer than the context is scored in windows that overlap by
    half.
    """
    ids = [self.tokenizer.document_id, *self.ids(text)]
    n_ctx = self.config.n_ctx
    half = max(1, n_ctx // 2)
    log_probs_T = np.zeros(len(ids), np.float32)
    done = 1
    for start in range(0, max(half, len(ids) - n_ctx + half), half):
      window = ids[start : start + n_ctx]
      new = self.predictions([window], 1)[0].log_probs_BT
      log_probs_T[done : start + len(window)] = new[done - start :]
      done = start + len(window)
    return log_probs_T[1:]

  def predictions(
    self, texts: Sequence[Sequence[int]], k: int
  ) -> list[inspection.Predictions]:
    """Returns log-probabilities and the k most likely tokens at each position.

    Args:
      texts: token ids of texts that fit the context, read in one batch.
      k: alternatives at each position.

    Returns:
      `inspection.Predictions` of each text, as numpy arrays without batch axis.
    """
    tokens_BT, lengths_B = decoding.padded(texts, self.config.n_ctx)
    found = jax.device_get(
      inspection.predictions(self._model, self._params, tokens_BT, k)
    )
    return [
      inspection.Predictions(*(x[b, :length] for x in found))
      for b, length in enumerate(lengths_B)
    ]

  def start(
    self,
    text: TextLike,
    options: options_lib.Options,
    number: tuple[int, int] = (0, 0),
  ) -> Continuation:
    """Returns a sample that `decoder` can extend; see `Continuation`."""
    return Continuation(
      self.tokenizer, self.ids(text), options, self.config.n_ctx, number
    )

  def decoder(self) -> continuous.Decoder:
    """Returns a decoder with an empty batch."""
    return continuous.Decoder(self._model, self._params)

  def stream(
    self, prompt: TextLike = '', **options: Unpack[options_lib.OptionValues]
  ) -> Iterator[Piece]:
    """Yields the continuation of a prompt, token by token.

    Takes the arguments of `generate`, and raises the same errors.
    """
    sample = self.start(prompt, options_lib.parse(options))
    if sample.cut_notice:
      warnings.warn(sample.cut_notice, stacklevel=2)
    return self.follow(sample)

  def follow(self, sample: Continuation) -> Iterator[Piece]:
    """Extends a sample made by `start` until it ends; yields its tokens."""
    decoder = self.decoder()
    while sample.finish_reason is None:
      yield sample.feed(decoder.step([sample.row])[0])

  def generate(
    self, prompt: TextLike = '', **options: Unpack[options_lib.OptionValues]
  ) -> str:
    """Returns the prompt (as the tokenizer spells it) with its continuation.

    Args:
      prompt: text to continue; '' starts a new document. Only its last n_ctx
        tokens are read; a warning says so.
      **options: `max_tokens` (100), `temperature` (1.0; 0 takes the most likely
        token), `top_k` (0: all), `top_p` (1.0: all), `seed` (0; None draws one)
        and `stop` (one text or several that end the sample).

    Raises:
      UserError: an option is unknown or out of range.
    """
    made = ''.join(piece.text for piece in self.stream(prompt, **options))
    return self.spelled(prompt) + made

  def spelled(self, text: TextLike) -> str:
    """Returns the text as the tokenizer spells it: cleaned, lower-cased."""
    return continuation.spell(self.tokenizer, self.ids(text))

  def classify(
    self, texts: Sequence[str | Sequence[str | Sequence[str]]]
  ) -> list[dict[str, object]]:
    """Labels texts with a fine-tuned run.

    Args:
      texts: examples: a text each; for pairs, a tuple of two texts; for choice,
        the context, a question if the task has one, and the list of answers.

    Returns:
      For each example `prediction` and, for classes and choices,
      `probabilities`.

    Raises:
      UserError: the run was not fine-tuned, an example has the wrong number of
        texts, or `texts` is no list of examples.
    """
    if isinstance(texts, str) or not isinstance(texts, Iterable):
      raise UserError('classify takes a list of examples: [text]')
    if self._labeller is None:
      self._labeller = labelling.Labeller(self.name, self.step, batch_size=32)
    found = labelling.examples(self._labeller.task, texts)
    return self._labeller.answer(found) if found else []

  def _one(self, text: TextLike) -> tuple[np.ndarray, int]:
    """Returns padded tokens int32 [1, T] and the length without padding."""
    ids = self.encode(text)
    if len(ids) > self.config.n_ctx:
      raise UserError(
        f'the text has {len(ids)} tokens, the model reads '
        f'{self.config.n_ctx}: shorten it'
      )
    return decoding.padded([ids], self.config.n_ctx)[0], len(ids)

  def _need_gpt(self, what: str) -> None:
    if not isinstance(self.config, GPTConfig):
      raise UserError(
        f'{self.name}: a model of kind {self.config.kind} has no {what}'
      )


def load(
  path: str | os.PathLike[str], checkpoint_step: int | None = None
) -> Run:
  """Loads a trained model.

  Args:
    path: a run directory (RUN@N for its checkpoint N), or a folder with files
      of OpenAI or Hugging Face; local or in a bucket.
    checkpoint_step: checkpoint of a run; None takes the best, else the latest.

  Raises:
    UserError: `path` holds nothing that can be loaded.
  """
  given = os.fspath(path) if isinstance(path, os.PathLike) else path
  if not isinstance(given, str) or not given:
    raise UserError(f'load takes the path of a run, not {path!r}')
  name, step = checkpoint.split_step(given)
  checkpoint_step = step if checkpoint_step is None else checkpoint_step
  source = storage.path(name)
  if not source.is_dir() or (source / 'checkpoints').is_dir():
    found = checkpoint.read(name, checkpoint_step)
    return Run(name, found, belonging.tokenizer(name, found.meta))
  if checkpoint_step is not None:
    raise UserError(f'{name}: has no checkpoints to choose from')
  return Run(name, *conversion.fetch(name, staging.STAGE_TO))
