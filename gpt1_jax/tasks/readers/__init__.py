"""Rows of a task, read from its original archive or from TFDS."""
