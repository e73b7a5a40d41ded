"""Where requests go: AWS or this machine."""
