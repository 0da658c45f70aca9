"""Lists the commands: python -m gpt1_jax."""

import gpt1_jax

COMMANDS = {
  'prepare': 'text to tokens',
  'pretrain': 'trains a model on them',
  'generate': 'continues a prompt',
  'evaluate': 'measures perplexity, or tasks without fine-tuning',
  'finetune': 'trains a model on a task',
  'predict': 'labels new text',
  'serve': 'answers requests over HTTP',
  'convert': "reads and writes other programs' weights",
  'report': 'compares runs with the paper',
}

if __name__ == '__main__':
  print(f'gpt1_jax {gpt1_jax.__version__}\n')
  for name, what in COMMANDS.items():
    print(f'  python -m gpt1_jax.{name:<10} {what}')
  print('\n--help after one of them shows its flags.')
