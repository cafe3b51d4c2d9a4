"""The settings of a run: `TrainingConfig`, its YAML form (`from_yaml`, `to_yaml`), its errors."""

from sharpgpt.config import ConfigError, TrainingConfig

__all__ = ["ConfigError", "TrainingConfig"]
