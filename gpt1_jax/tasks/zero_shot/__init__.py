"""Scores tasks without fine-tuning (P §5), by the likelihood of the answers.

questions.py   the tasks as text, and the tokens to score in each candidate
winograd.py    the files of the two Winograd tasks
likelihood.py  log-probabilities of candidates on a mesh
decisions.py   answers and scores from log-probabilities
results.py     the files that an evaluation writes
evaluation.py  all of it, for one checkpoint or several
"""
