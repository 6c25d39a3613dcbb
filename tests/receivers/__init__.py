"""Receivers of messages, each a process of its own that keeps a log of what it took."""
