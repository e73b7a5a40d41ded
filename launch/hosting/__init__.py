"""Life cycle of endpoints: find a model, deploy it, invoke the endpoint, delete it."""
