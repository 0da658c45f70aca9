r"""Labels new texts with a fine-tuned run.

  python -m gpt1_jax.predict --workdir=runs/my_task --input=new.jsonl
  python -m gpt1_jax.predict --workdir=runs/rte --input=pairs.csv \
      --output=labelled.jsonl

--input is JSON lines (.jsonl) or a table with a header (.csv, .tsv). It has the
columns of the task's texts: `text` (and `text_pair`, or `choices`) for a task
of your own, and the names of the original files for the others (`sentence` for
sst2; `sentence1` and `sentence2` for rte). Other columns are kept, but those
named as an answer are replaced, and NaN becomes null.

Prints a line of JSON for each row: its columns, and as answers `prediction`
(the label as the task spells it, or a number) and `probabilities` of all
labels. --output writes the lines to a file instead.
"""

from absl import flags

from gpt1_jax import cli, cluster, interrupts, staging, storage
from gpt1_jax.errors import UserError

_WORKDIR = flags.DEFINE_string(
  'workdir', None, 'The fine-tuned run.', required=True
)
_INPUT = flags.DEFINE_string(
  'input', None, 'The texts: .jsonl, .csv or .tsv.', required=True
)
_OUTPUT = flags.DEFINE_string('output', None, 'File to write; default: stdout.')
_BATCH = flags.DEFINE_integer(
  'batch_size',
  32,
  'Examples per device in a batch.',
  lower_bound=1,
  upper_bound=2**20,
)
_STEP = cli.define_step()
_STAGE_TO = cli.define_stage_to()


def main() -> None:
  output = _OUTPUT.value and storage.resolved(_OUTPUT.value)
  if output and output == storage.resolved(_INPUT.value):
    raise UserError('--output is --input, which it would replace')
  cli.say_first(f'predict: {_INPUT.value} with {_WORKDIR.value}')
  with interrupts.importing():
    import jax

    from gpt1_jax.tasks import labelling
  with cluster.connected():
    file = staging.fetch(_INPUT.value, _STAGE_TO.value)
    run = labelling.Labeller(_WORKDIR.value, _STEP.value, _BATCH.value)
    labelled = run.label(file)
    lines = [storage.to_json(row, in_ascii=False) + '\n' for row in labelled]
    if jax.process_index():
      return
    if _OUTPUT.value:
      storage.write_text(_OUTPUT.value, ''.join(lines))
    else:
      print(''.join(lines), end='', flush=True)


if __name__ == '__main__':
  cli.run(main)
