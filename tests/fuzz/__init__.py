"""Thousands of damaged and odd inputs, seeded; see :mod:`tests.fuzz.__main__`."""
