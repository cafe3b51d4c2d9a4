"""Settings: `TrainingConfig`, its YAML form and its command line. Imports no torch."""

from sharpgpt.config.options import ConfigError
from sharpgpt.config.rules import penalised_positions
from sharpgpt.config.settings import TrainingConfig

__all__ = ["ConfigError", "TrainingConfig", "penalised_positions"]
