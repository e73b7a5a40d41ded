"""Cached features of a frozen backbone: computed once, stored on disk, shared between trainings.

    features = FeatureCache("outputs/.features").load(model, data)
    trainer.fit(model, FeatureDataModule(data, features))

`cache` decides and looks up, `extract` computes (with the forms of `runtime`), `store` keeps the files on this machine,
`shared_store` in S3, and `datamodule` makes batches of features.
"""

from dogbreed.features.cache import FeatureCache, NotCacheableError
from dogbreed.features.datamodule import FeatureDataModule

__all__ = ["FeatureCache", "FeatureDataModule", "NotCacheableError"]
