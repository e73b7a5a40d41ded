"""What a frozen backbone makes of images: computed once at the machine's speed, kept on disk, shared by trainings.

    Trainer(callbacks=[FeatureCache("outputs/.features")]).fit(model, ImageDataModule(URL, augment=False))

`keep` decides and attaches, `speed` runs the backbone, `files` keeps the features on this machine, `shared` in S3.
"""

from dogbreed.features.callback import FeatureCache

__all__ = ["FeatureCache"]
