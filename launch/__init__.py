"""From a composed config to SageMaker jobs, on AWS or on this machine. Imports no torch."""
