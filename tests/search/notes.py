"""Three notes."""

from __future__ import annotations

from typing import Any

NOTES: list[dict[str, Any]] = [
    {"id": "a1", "text": "Rivers carry silt to the sea.", "metadata": {"year": 2024, "tags": ["water", {"deep": 1}]}},
    {"id": "a2", "text": "Mountains rise where plates meet.", "metadata": {"year": 2020}},
    {"id": "a3", "text": "Flüsse tragen Schlamm ins Meer.", "metadata": {"year": 2019, "ratio": 0.1}},
]
