"""The dicts that boto3 sends: tuning jobs, training jobs, endpoints."""
