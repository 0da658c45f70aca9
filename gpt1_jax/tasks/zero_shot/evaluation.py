"""Scores one checkpoint of a run, or several, on the zero-shot tasks (P §5)."""

from collections.abc import Sequence

import jax

from gpt1_jax import progress
from gpt1_jax.errors import UserError
from gpt1_jax.model import models
from gpt1_jax.tasks import metrics
from gpt1_jax.tasks.batches import Batches, BatchSettings
from gpt1_jax.tasks.readers import archives
from gpt1_jax.tasks.zero_shot import (
  decisions,
  likelihood,
  questions as questions_lib,
  results,
)
from gpt1_jax.train import (
  belonging,
  checkpoint,
  hosts,
  run as run_lib,
  sharding,
)


def evaluate(
  workdir: str,
  tasks_path: str,
  names: Sequence[str],
  steps: Sequence[int | None],
  batch_size: int,
) -> list[results.ZeroShotRow]:
  """Scores checkpoints and writes their files (see `results`) one by one.

  Args:
    tasks_path: folder, zip or tar that holds the tasks, or `tfds[:FOLDER]`.
    names: keys of `questions.TASKS` that must be found; empty: every task
      that is found there. The others are reported on stderr.
    steps: checkpoints, in order; None: the best or the latest.
    batch_size: candidates per device in a batch.

  Returns:
    The new rows of zero_shot.jsonl.

  Raises:
    UserError: a task is unknown, missing or malformed, or a checkpoint is
      missing or has diverged.
  """
  params, meta, step = checkpoint.read(workdir, steps[0])
  config = meta.model
  tokenizer = belonging.tokenizer(workdir, meta)
  questions = read_questions(tasks_path, names, tokenizer.encode, config.n_ctx)
  mesh = sharding.make_mesh(jax.devices())
  batch_size *= jax.device_count()
  candidates = [c for part in questions for c in part.candidates]
  hosts.agree({'data of the tasks': candidates})
  batches = Batches(
    likelihood.lay_out(candidates, config.n_ctx),
    BatchSettings(batch_size, lengths=likelihood.WIDTHS),
    sharding.host_rows(mesh, batch_size),
  )
  rows: list[results.ZeroShotRow] = []
  bar = progress.Progress(
    'zero-shot',
    len(candidates) * len(steps),
    'sequences',
    'tokens/s',
    on=jax.process_index() == 0,
  )
  with sharding.use(mesh), bar:
    score = likelihood.score_fn(models.new(config), mesh)
    for number, wanted in enumerate(steps):
      if number:
        params, _, step = checkpoint.read(workdir, wanted)
      log_probs = score(
        params['gpt'],
        batches,
        lambda count, tokens: bar.add(count, count, tokens),
      )
      answers = decisions.decide(questions, log_probs)
      seen, commit = tokens_seen(workdir, step), run_lib.commit()
      new = [
        results.new_row(part, step, seen, commit)
        for part in answers
        if part.task in questions_lib.TASKS
      ]
      rows += new
      for part in answers:
        for remark in metrics.remarks(part.questions.labels, part.predictions):
          hosts.say(f'{part.task} {part.questions.split}: {remark}')
      if jax.process_index() == 0:
        results.write(workdir, step, answers, new)
  return rows


def read_questions(
  path: str,
  names: Sequence[str],
  encode: questions_lib.Encode,
  n_ctx: int,
) -> list[questions_lib.Questions]:
  """Reads the tasks named, or all that are found; see `evaluate`.

  Raises:
    UserError: a task is unknown, missing or malformed; names --tasks_path.
  """
  for name in names:
    if name not in questions_lib.TASKS:
      raise UserError(
        f'--tasks: unknown zero-shot task {name!r}; choose from '
        + ', '.join(questions_lib.TASKS)
      )
  questions: list[questions_lib.Questions] = []
  found: list[str] = []
  reasons: set[str] = set()
  for name in names or questions_lib.TASKS:
    in_race = name in questions_lib.RACE_HALVES and 'race' in (*found, *names)
    if name in found or in_race:
      continue
    try:
      questions += questions_lib.read(name, path, encode, n_ctx)
      found.append(name)
    except UserError as error:
      # The readers' messages name a fine-tuning key instead of the flag.
      reason = str(error).replace('config.data.path', '--tasks_path')
      if names or not isinstance(error, archives.MissingError):
        raise UserError(reason) from None
      if reason not in reasons:  # `race` repeats its missing half
        hosts.say(f'not run: {reason}')
      reasons.add(reason)
  if not found:
    raise UserError(
      f'{path}: no zero-shot task found here; set --tasks_path to a folder '
      'with one of ' + ', '.join(questions_lib.TASKS)
    )
  for part in questions:
    for line in part.skipped_rows:
      hosts.say(f'skipped: {line}')
    if part.num_cut:
      hosts.say(
        f'{part.task} {part.split}: {part.num_cut} of {len(part.labels)} '
        'examples cut to fit the context'
      )
  return questions


def tokens_seen(workdir: str, step: int) -> int | None:
  """Returns the number of tokens trained on before a step; None if unknown."""
  header = run_lib.load(workdir)
  if header['command'] != 'pretrain':
    return None
  batch_size = header['config']['data']['batch_size']
  return step * batch_size * header['model']['n_ctx']
