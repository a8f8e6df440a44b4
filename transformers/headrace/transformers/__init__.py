"""Transformers and explainers that ship with Headrace; they use only headrace.server."""
