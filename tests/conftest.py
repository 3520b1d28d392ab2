"""What holds for every test."""

from __future__ import annotations

import os

from hypothesis import settings

# As the command line does, before torch is loaded.
os.environ.setdefault("OMP_WAIT_POLICY", "PASSIVE")

# Machines are shared: how long one example takes says nothing about the code under test.
settings.register_profile("patient", deadline=None)
settings.load_profile("patient")
