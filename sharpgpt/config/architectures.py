"""The published GPT-2 sizes, available offline (source: config.json of each on the hub)."""

from dataclasses import dataclass


@dataclass(frozen=True)
class Gpt2Size:
    """Layers, attention heads and width."""

    n_layer: int
    n_head: int
    n_embd: int


GPT2_SIZES = {
    "gpt2": Gpt2Size(12, 12, 768),
    "gpt2-medium": Gpt2Size(24, 16, 1024),
    "gpt2-large": Gpt2Size(36, 20, 1280),
    "gpt2-xl": Gpt2Size(48, 25, 1600),
}
GPT2_POSITIONS = 1024
GPT2_VOCABULARY = 50257

MAX_LAYERS = 10_000
"""More layers are refused: building them would take hours at any width."""
