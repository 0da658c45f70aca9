"""Builders, fakes and references that several test files share."""
