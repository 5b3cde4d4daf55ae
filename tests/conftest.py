"""What holds for all tests."""

from __future__ import annotations

from hypothesis import settings

# How fast the machine is decides nothing here.
settings.register_profile("embank", deadline=None)
settings.load_profile("embank")
