"""Serving a trained model: the model folder, SageMaker's inference contract, and a local HTTP server."""
