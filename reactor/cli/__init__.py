"""The commands of `reactor`: results on stdout, all else on stderr, exit codes for scripts."""
