"""Codecs: pure functions between wire bytes and the core's values. They know no web framework."""
