"""A HuggingFace causal LM with the sharpness loss inside its forward."""
