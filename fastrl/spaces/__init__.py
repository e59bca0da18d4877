"""Observation and action spaces as rows of numbers."""
