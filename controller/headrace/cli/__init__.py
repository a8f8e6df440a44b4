"""The headrace command: thin, with lazy imports."""
