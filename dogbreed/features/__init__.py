"""Cached features of a frozen backbone: computed once, stored on disk, shared between trainings.

    features = FeatureCache("outputs/.features").load(model, data)
    trainer.fit(model, FeatureDataModule(data, features))

`cache` looks up features or has `extract` compute them (with the fastest `runtime`), `store` keeps the files on this
machine, `shared_store` in S3, and `datamodule` yields batches of features.
"""

from dogbreed.features.cache import FeatureCache, NotCacheableError
from dogbreed.features.datamodule import FeatureDataModule

__all__ = ["FeatureCache", "FeatureDataModule", "NotCacheableError"]
