"""One training from a resolved config to results and a model folder."""
