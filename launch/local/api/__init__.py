"""SageMaker's operations, answered on this machine."""
