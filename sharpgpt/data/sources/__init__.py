"""Documents and texts from local files and the HuggingFace hub."""
