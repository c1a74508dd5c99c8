"""Makes `python -m tests.parity` ours even where another installed package is called tests."""
