"""Serves a run over HTTP: the OpenAI completions API and a page."""
