"""Turns the tokens of a sample into text and decides when it ends."""

from collections.abc import Sequence
from typing import NamedTuple

from gpt1_jax.corpus.tokenization import Tokenizer
from gpt1_jax.inference.options import Options
from gpt1_jax.model import continuous

_BEFORE = 8  # number of preceding tokens that can change a token's spelling


class Piece(NamedTuple):
  """A token as it arrives.

  Attributes:
    token: the token, its log-probability and the most likely alternatives.
    spelled: what the token adds to the text.
    text: text that can be shown now; it may lag behind while the end could
      still become a stop text. All pieces together make the sample's text.
    last: True for the token that ends the sample.
  """

  token: continuous.Token
  spelled: str
  text: str
  last: bool


class Continuation:
  """One sample from a prompt; receives its tokens one by one.

  Attributes:
    row: the text that the decoder extends.
    cut_notice: says that the prompt does not fit the context; '' if it does.
    text: the sample so far, without prompt and stop text.
    finish_reason: None until the sample ends; then 'stop' (end of a document or
      a stop text) or 'length' (max_tokens reached).
  """

  def __init__(
    self,
    tokenizer: Tokenizer,
    prompt: Sequence[int],
    options: Options,
    n_ctx: int,
    number: tuple[int, int] = (0, 0),
  ):
    """Starts a sample.

    Args:
      tokenizer: the model's.
      prompt: token ids; empty starts a new document.
      options: how to choose tokens and when to stop.
      n_ctx: the model's context length.
      number: (prompt, sample) indices, which seed the random choices with
        `options.seed`; see `continuous.Text`.
    """
    self._tokenizer, self._options = tokenizer, options
    ids = list(prompt) or [tokenizer.document_id]
    room = len(ids) + options.max_tokens
    self.row = continuous.Text(
      ids, options.sampling, options.seed, *number, room
    )
    self.cut_notice = ''
    if len(prompt) > n_ctx:
      self.cut_notice = (
        f'the prompt has {len(prompt)} tokens; the model reads only the last '
        f'{n_ctx}'
      )
    self.text = ''
    self.finish_reason: str | None = None
    self._recent = list(prompt)[-_BEFORE:]
    self._shown = 0

  def feed(self, token: continuous.Token) -> Piece:
    """Takes the next token of the decoder."""
    assert self.finish_reason is None
    if ends_document(self._tokenizer, token.id):
      self.finish_reason = 'stop'
      return Piece(token, '', self._show(len(self.text)), True)
    spelled = pieces(self._tokenizer, [*self._recent, token.id], last=True)[0]
    self._recent = [*self._recent, token.id][-_BEFORE:]
    whole = self.text = self.text + spelled
    longest = max(map(len, self._options.stop), default=0)
    start = max(0, len(whole) - len(spelled) - longest)
    found = [whole.find(stop, start) for stop in self._options.stop if stop]
    if ends := [at for at in found if at >= 0]:
      self.finish_reason = 'stop'
      self.text = whole[: max(min(ends), self._shown)]
    elif self.row.made == self._options.max_tokens:
      self.finish_reason = 'length'
    held = 0 if self.finish_reason else self._held_back()
    text = self._show(len(self.text) - held)
    return Piece(token, spelled, text, self.finish_reason is not None)

  def _show(self, end: int) -> str:
    text = self.text[self._shown : end]
    self._shown = max(self._shown, end)
    return text

  def _held_back(self) -> int:
    """Returns the length of the longest suffix that may begin a stop text."""
    return max(
      (
        size
        for stop in self._options.stop
        for size in range(1, len(stop))
        if self.text.endswith(stop[:size])
      ),
      default=0,
    )


def ends_document(tokenizer: Tokenizer, token_id: int) -> bool:
  """Returns True for the token that ends a document.

  Always False for the released vocabulary, where a newline ends both lines and
  documents.
  """
  own = tokenizer.document_id != tokenizer.newline_id
  return own and token_id == tokenizer.document_id


def spell(tokenizer: Tokenizer, ids: Sequence[int]) -> str:
  """Decodes a text, without the preceding document boundary."""
  start = 1 if ids and ends_document(tokenizer, ids[0]) else 0
  return tokenizer.decode(ids[start:])


def pieces(
  tokenizer: Tokenizer, ids: Sequence[int], last: bool = False
) -> list[str]:
  """Returns the text that each token, or only the last, adds."""
  out = []
  for i in range(len(ids) - 1 if last else 0, len(ids)):
    first = max(0, i - _BEFORE)
    before = spell(tokenizer, ids[first:i])
    out.append(spell(tokenizer, ids[first : i + 1])[len(before) :])
  return out


def run(decoder: continuous.Decoder, samples: Sequence[Continuation]) -> None:
  """Generates all samples in one batch until each has ended."""
  while going := [s for s in samples if s.finish_reason is None]:
    tokens = decoder.step([sample.row for sample in going])
    for sample, token in zip(going, tokens, strict=True):
      sample.feed(token)


def name(tokenizer: Tokenizer, token_id: int) -> str:
  """Returns the spelling of a token within a text, including its space.

  The space comes first; in the released vocabulary, last.
  """
  word = tokenizer.encode('a')
  before = tokenizer.decode(word)
  return tokenizer.decode([*word, token_id])[len(before) :]
