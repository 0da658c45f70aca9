"""launch/sky.yaml against SkyPilot's schema, and its command against ours."""

import re
import shlex

import pytest
import yaml

from gpt1_jax import interrupts
from tests.support import commands

TASK = yaml.safe_load((commands.ROOT / 'launch' / 'sky.yaml').read_text())


def test_skypilot_accepts_the_file():
  """SkyPilot is large: install it by hand to run this."""
  schemas = pytest.importorskip('sky.utils.schemas', reason='needs skypilot')
  jsonschema = pytest.importorskip('jsonschema')
  for values, schema in (
    (TASK, schemas.get_task_schema()),
    (TASK['resources'], schemas.get_resources_schema()),
  ):
    kind = jsonschema.validators.validator_for(schema)
    assert list(kind(schema).iter_errors(values)) == []


def test_the_command_and_its_variables_exist():
  assert set(re.findall(r'\$(\w+)', TASK['setup'] + TASK['run'])) == set(
    TASK['envs']
  )
  line = re.sub(r'\$PRESET', TASK['envs']['PRESET'], TASK['run'])
  words = shlex.split(line.replace('\\\n', ' '))
  assert words[:3] == ['python', '-m', 'gpt1_jax.pretrain']
  done = commands.run('pretrain', *words[3:], '--print_config')
  assert '--config.model.dtype=bfloat16' in done.stdout


def test_a_stopped_run_is_recovered():
  codes = TASK['resources']['job_recovery']['recover_on_exit_codes']
  assert codes == [interrupts.EXIT_CODE]
