"""Converts weights and tokenizers from and to other formats."""
