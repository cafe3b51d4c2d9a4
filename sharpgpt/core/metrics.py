"""The registry of metrics."""

NUM_HISTOGRAM_BINS = 20
MEANS = ("loss", "ce_loss", "penalty", "avg_max_prob", "entropy", "top_k_mass", "accuracy")
