"""What a frozen backbone makes of pictures: computed once at the machine's speed, kept on disk, shared by trainings.

    Trainer(callbacks=[KeepFeatures("outputs/.features")]).fit(model, ImageDataModule(URL, augment=False))

`keep` decides and attaches, `speed` runs the backbone, `files` keeps the features on this machine, `shared` in S3.
"""

from dogbreed.features.keep import KeepFeatures

__all__ = ["KeepFeatures"]
