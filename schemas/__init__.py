"""The documents and what else handlers speak of: shapes and their converter. Decides nothing."""
