"""Makes a TPU's compiler overlap the reduction of gradients with products."""

import jax

# The first three let products run while gradients are summed over devices. By
# default all gradients of a layer are joined in one sum, which must wait for
# the last of them; so only small ones are joined. The last option keeps a
# product of gathered parameters whole: in pieces it hides the gather, too, but
# takes longer.
_OPTIONS: dict[str, bool | int] = {
  'xla_enable_async_all_reduce': True,
  'xla_tpu_enable_async_collective_fusion': True,
  'xla_tpu_enable_async_collective_fusion_fuse_all_reduce': True,
  'xla_jf_crs_combiner_threshold_in_bytes': 2**20,
  'xla_jf_spmd_threshold_for_windowed_einsum_mib': 100_000,
}

# Where the paper's step compiles with them. On v4 a running sum needs more VMEM
# than there is.
_CHIPS = ('TPU v5 lite', 'TPU v5', 'TPU v6 lite')  # v5e, v5p, v6e


def compiler_options(
  mesh: jax.sharding.Mesh | jax.sharding.AbstractMesh,
) -> dict[str, bool | int] | None:
  """Returns the options to compile a train step with, for `jax.jit`."""
  device = mesh.abstract_mesh.abstract_device
  if mesh.size == 1 or device is None or device.device_kind not in _CHIPS:
    return None
  return _OPTIONS
