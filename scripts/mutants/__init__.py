"""Parts of scripts/check_mutants."""
