"""The life cycle of sweeps and trainings: submit, follow, read results."""
