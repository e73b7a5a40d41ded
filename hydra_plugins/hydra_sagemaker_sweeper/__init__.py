"""`hydra/sweeper=sagemaker`: the multirun of any Hydra application as one SageMaker tuning job."""
