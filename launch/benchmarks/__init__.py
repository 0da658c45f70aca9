"""Candidates of launch/benchmark.py: each runs in a process of its own."""
