"""Makes tests/goldens/openai_gpt.npz: what `transformers` computes.

  pip install -e '.[test,peers]'
  python -m tests.goldens.make

A small seeded OpenAIGPT of random weights, biases and gains included; its
inputs, logits, losses and gradients, as OpenAIGPTLMHeadModel and as
OpenAIGPTDoubleHeadsModel (whose task loss is added to half of the LM loss).
Names in the file: weights/NAME, lm/..., choice/..., gradients under .../grad/.
"""

import pathlib

import numpy as np

OUTPUT = pathlib.Path(__file__).with_name('openai_gpt.npz')
SHAPE = {'n_layer': 2, 'n_head': 4, 'n_embd': 32, 'n_positions': 16}
SIZES = {'rows': 100, 'batch': 3, 'choices': 2, 'length': 12}


def main() -> None:
  arrays = make(SHAPE, **SIZES)
  with OUTPUT.open('wb') as file:
    np.savez_compressed(file, **arrays)
  print(f'{OUTPUT}: {len(arrays)} arrays, {OUTPUT.stat().st_size:,} bytes')


def make(
  shape: dict[str, int],
  *,
  rows: int,
  batch: int,
  choices: int,
  length: int,
  std: float = 0.15,
) -> dict[str, np.ndarray]:
  """Runs both classes on seeded weights and inputs; dropout is off.

  Args:
    shape: fields of OpenAIGPTConfig.
    rows: rows of the token embedding, specials included.
    batch, choices, length: shape of the inputs. The LM takes the first choice
      of each example at the full context.
    std: deviation of the weights and biases, and of the gains around 1.
  """
  import torch
  import transformers

  config = transformers.OpenAIGPTConfig(
    vocab_size=rows, summary_first_dropout=0.0, **shape
  )
  rng = np.random.default_rng(0)
  double = transformers.OpenAIGPTDoubleHeadsModel(config).eval()
  with torch.no_grad():
    for name, x in double.named_parameters():
      gain = '.ln_' in name and name.endswith('.weight')
      drawn = rng.normal(size=x.shape) * std + gain
      x.copy_(torch.from_numpy(drawn.astype(np.float32)))
  lm = transformers.OpenAIGPTLMHeadModel(config).eval()
  lm.transformer.load_state_dict(double.transformer.state_dict())
  out = {f'weights/{name}': x for name, x in _numpy(double).items()}

  tokens = rng.integers(0, rows, (batch, config.n_positions))
  ids = torch.from_numpy(tokens)
  result = lm(ids, labels=ids)
  result.loss.backward()
  out |= {
    'lm/tokens': tokens.astype(np.int32),
    'lm/logits': result.logits.detach().numpy(),
    'lm/loss': result.loss.detach().numpy(),
    **{f'lm/grad/{name}': x for name, x in _numpy(lm, grad=True).items()},
  }

  tokens = rng.integers(0, rows, (batch, choices, length))
  extract = rng.integers(length // 2, length, (batch, choices))
  label = rng.integers(0, choices, batch)
  inside = np.arange(length) <= extract[..., None]
  lm_labels = np.where(inside, tokens, -100)
  result = double(
    torch.from_numpy(tokens),
    mc_token_ids=torch.from_numpy(extract),
    labels=torch.from_numpy(lm_labels),
    mc_labels=torch.from_numpy(label),
  )
  loss = result.mc_loss + 0.5 * result.loss
  loss.backward()
  out |= {
    'choice/tokens': tokens.astype(np.int32),
    'choice/lm_weights': inside.astype(np.float32),
    'choice/extract': extract.astype(np.int32),
    'choice/label': label.astype(np.int32),
    'choice/logits': result.logits.detach().numpy(),
    'choice/outputs': result.mc_logits.detach().numpy(),
    'choice/lm_loss': result.loss.detach().numpy(),
    'choice/task_loss': result.mc_loss.detach().numpy(),
    'choice/loss': loss.detach().numpy(),
    **{
      f'choice/grad/{name}': x for name, x in _numpy(double, grad=True).items()
    },
  }
  return out


def _numpy(model, grad: bool = False) -> dict[str, np.ndarray]:
  """Returns parameters or gradients, each once (the softmax is tied)."""
  return {
    name: (x.grad if grad else x.detach()).numpy().copy()
    for name, x in model.named_parameters()
  }


if __name__ == '__main__':
  main()
