"""Lightning callbacks of a training: checkpoints, metric lines, signals, weight averaging."""
