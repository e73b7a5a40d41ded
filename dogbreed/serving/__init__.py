"""The trained model behind HTTP: its folder, SageMaker's inference contract, the server of this machine."""
