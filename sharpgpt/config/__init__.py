"""Settings: `TrainingConfig`, its YAML form and its command line. Imports no torch."""

from sharpgpt.config.settings import TrainingConfig
from sharpgpt.config.validation import ConfigError, penalised_positions

__all__ = ["ConfigError", "TrainingConfig", "penalised_positions"]
