"""Operating-system services: CPU affinity, thread pools, file locks and atomic writes."""
