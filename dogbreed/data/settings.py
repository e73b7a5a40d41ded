"""The settings of images and of their cached features, each declared once: type, default, bounds, meaning.

`ImageDataModule` and `FeatureCache` take them. Imports no torch.
"""

from __future__ import annotations

from dataclasses import dataclass

from dogbreed.system.settings import REQUIRED, setting


@dataclass
class DataSettings:
    """Images in class folders, and how they are loaded."""

    url: str = setting(
        REQUIRED,
        "Folder with train/, val/ (or valid/) and test/, or with the class folders; a path, s3://BUCKET/PREFIX or demo://.",
    )
    batch_size: int = setting("${batch_size}", "Images per batch, in each process.", low=1)
    seed: int = setting("${seed}", "Seed of the data order and the augmentation.", low=0, high=2**32 - 1)
    image_size: int | None = setting(
        None, "Image side in px; null uses the input size of the backbone.", low=1, high=4096
    )
    num_workers: int | None = setting(
        None, "Processes that load images; null chooses by the size of the data set and the machine.", low=0, high=256
    )
    augment: bool = setting(True, "Random crops and horizontal flips of the training images.")
    crop_area: float = setting(0.08, "Smallest share of the image area that a random crop shows.", above=0, high=1)
    randaugment: int = setting(
        0,
        "Magnitude of RandAugment, two more random changes of colour or shape; 9 is usual, 0 disables it.",
        low=0,
        high=30,
    )
    randaugment_on: str = setting(
        "worker",
        "Where RandAugment runs: `worker` changes every image separately, `device` eight images of a batch alike "
        "on the GPU and relieves the CPUs.",
        choices=("worker", "device"),
    )
    balanced: bool = setting(
        False, "Show each class equally often per epoch: small classes are oversampled, large ones undersampled."
    )
    bad_images: str = setting(
        "skip",
        "What to do with an unreadable image: `skip` counts and names it, `raise` ends the run.",
        choices=("skip", "raise"),
    )
    max_bad: float = setting(
        0.01, "Largest share of skipped images, measured over at least 1000; above it the run ends.", low=0, high=1
    )
    val_fraction: float = setting(
        0.1, "Share of each class of train that becomes the validation split, if there is none.", low=0, high=1
    )
    test_fraction: float = setting(
        0.1, "Share of each class of train that becomes the test split, if there is none.", low=0, high=1
    )
    cache: str | None = setting(None, "Folder that caches fetched images for the next epoch; null disables it.")
    cache_gb: float = setting(
        20.0, "Size limit of the cache in GB; the least recently used images are removed.", above=0
    )
    cache_scaled: bool = setting(False, "Cache and use images scaled to a short side of 512 px.")


@dataclass
class S3DataSettings:
    """Further settings of images in S3 (`data=s3`)."""

    request_payer: bool = setting(False, "Pay for the requests, as requester-pays buckets demand.")
    endpoint_url: str | None = setting(None, "Server of another S3-compatible store, such as http://127.0.0.1:9000.")


@dataclass
class FeatureSettings:
    """Cached features of a frozen backbone."""

    folder: str = setting(
        "${oc.env:DOGBREED_FEATURES,outputs/.features}", "Folder of the cache; deleting it only costs time."
    )
    views: int = setting(
        0,
        "Random crops per training image that are cached and shown in turn; 0 caches the plain image and needs "
        "data.augment=false.",
        low=0,
    )
    max_gb: float = setting(20, "Size limit in GB; the least recently used features are removed.", low=0)
    url: str | None = setting(
        None, "s3://BUCKET/PREFIX where the jobs of a sweep share features: the first computes, the others wait."
    )
    endpoint_url: str | None = setting(
        "${oc.select:data.endpoint_url,null}", "Server of another S3-compatible store for `features.url`."
    )
