"""Decisions: (state, event, now) -> transition. No I/O, no clock, no randomness, no logging."""
