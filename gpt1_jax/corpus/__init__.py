"""Text in, batches out. Nothing in this room imports jax."""
