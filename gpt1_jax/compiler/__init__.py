"""Analyses compiled programs: memory, cost and fit."""
