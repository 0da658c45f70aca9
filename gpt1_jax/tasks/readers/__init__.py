"""Reads the rows of a task from its original archive or from TFDS."""
