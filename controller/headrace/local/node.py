"""Processes as replicas."""
