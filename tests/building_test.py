"""A directory gets its name when it is complete."""

import pytest

from gpt1_jax import building
from gpt1_jax.errors import UserError


def test_a_directory_built_meanwhile_is_kept(tmp_path):
  output, temporary = tmp_path / 'output', tmp_path / 'output.incomplete'
  (temporary / 'output' / 'left').mkdir(parents=True)
  (temporary / 'output' / 'left' / 'x').write_text('of a killed process')
  (temporary / 'output' / 'y').write_text('of a killed process')
  with building.atomic_dir(output) as first:
    assert list(first.iterdir()) == []
    with (
      pytest.raises(UserError, match=f'{output}: another process is writing'),
      building.atomic_dir(output),
    ):
      pytest.fail('two processes write one directory')
    (first / 'x').write_text('first')
  with (
    pytest.raises(UserError, match='or has just written it'),
    building.atomic_dir(output),
  ):
    pytest.fail('the directory is complete')
  assert (output / 'x').read_text() == 'first'
  assert not temporary.exists()


@pytest.mark.parametrize('is_link', [False, True])
def test_a_folder_of_the_user_is_not_taken_for_leftovers(tmp_path, is_link):
  place = tmp_path / 'output.incomplete'
  mine = tmp_path / 'mine' if is_link else place
  mine.mkdir()
  (mine / 'notes').write_text('mine')
  if is_link:
    place.symlink_to(mine)
  with (
    pytest.raises(UserError, match=f'{place}: holds notes, which no'),
    building.atomic_dir(tmp_path / 'output'),
  ):
    pytest.fail('the folder is not free')
  assert (mine / 'notes').read_text() == 'mine'
