"""SageMaker on this machine: the same requests, answered with processes and plain files.

    client = local_client(Path("outputs"))
    client.create_hyper_parameter_tuning_job(...)

`api` answers the operations. Each job and each endpoint has a supervisor process: `jobs` runs training jobs, `tuning`
tuning jobs, `hosting` endpoints. They share nothing but the folders of `job_store`.
"""
