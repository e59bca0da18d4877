"""Hostile use, generated from a seed and held against one rule (see `rule`).

`pytest tests/hostile` plays a few of each kind; `pytest tests/hostile -m hostile` plays thousands.
FASTRL_HOSTILE_SEED=n generates others.
"""
