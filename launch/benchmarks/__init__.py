"""The candidates of launch/benchmark.py, each a process that is asked to run.

A candidate gets its settings as JSON, prepares and warms up, and then runs one
repetition whenever it is asked to, saying what it measured as JSON; `process`
has both ends of that talk. Ours and the peers' stand side by side.
"""
