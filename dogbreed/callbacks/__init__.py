"""Lightning callbacks: checkpoints, metric lines, clean stops, weight averaging."""
