"""The classifier: backbone, head, losses, metrics, optimizer and schedules."""
