"""All I/O: reading the database, applying decisions, delivering messages, telemetry, the CLI."""

__version__ = "0.1.0"
