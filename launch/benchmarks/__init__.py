"""Candidates for launch/benchmark.py; each runs in its own process."""
