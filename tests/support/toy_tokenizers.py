"""Two tokenizers small enough to compute their ids by hand."""


class DigitTokenizer:
  """Reads digits: '3 1 4' encodes to [3, 1, 4]."""

  vocab_size = 10

  def encode(self, text: str) -> list[int]:
    return [int(word) for word in text.split()]


class WordTokenizer:
  """Numbers words in the order in which it first sees them."""

  vocab_size = 5000

  def __init__(self) -> None:
    self.ids: dict[str, int] = {}

  def encode(self, text: str) -> list[int]:
    return [self.ids.setdefault(word, len(self.ids)) for word in text.split()]
