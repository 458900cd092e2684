"""The shell around the kernel: drivers, effects, agents and pools."""
