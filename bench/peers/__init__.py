"""Other engines doing the same step, on this machine and in the same run: see README.md beside this."""
