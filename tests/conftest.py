"""What holds for every test."""

from __future__ import annotations

from hypothesis import HealthCheck, settings

# A machine under load is no fault of the code: nothing here is judged by the clock.
settings.register_profile("kode", deadline=None, suppress_health_check=[HealthCheck.too_slow])
settings.load_profile("kode")
