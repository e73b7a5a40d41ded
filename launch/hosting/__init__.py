"""Endpoints: from a trained model to requests that make one, and to the answers that it gives."""
