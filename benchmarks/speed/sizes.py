"""The models of `steps`, for both frameworks."""

from typing import Any

TASKS = 4
RATE = 1e-3

MLP: dict[str, Any] = {"inputs": 256, "widths": (768, 768, 256)}
MLP_ROWS = 128
TEXT: dict[str, Any] = {"vocabulary": 4000, "embedding": 64, "channels": 64, "widths": (3, 5, 7)}
TEXT_ROWS, TEXT_LENGTH = 16, 64
PAIRS: dict[str, Any] = {
    "vocabulary": 4000,
    "length": 32,
    "layers": 2,
    "attention_heads": 4,
    "width": 128,
    "hidden": 256,
}
PAIR_ROWS = 32
