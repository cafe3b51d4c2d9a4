"""Studies: a question, arms and seeds declared in one file, run to a verdict."""
