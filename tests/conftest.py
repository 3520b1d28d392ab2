"""What holds for every test."""

from __future__ import annotations

from hypothesis import settings

# Machines are shared: how long one example takes says nothing about the code under test.
settings.register_profile("patient", deadline=None)
settings.load_profile("patient")
