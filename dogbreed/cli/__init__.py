"""The command line of one training: composing, validating and running a Hydra config."""
