"""What every job would need and might not find: one error here is better than one a trial."""

from __future__ import annotations

from pathlib import Path

from omegaconf import DictConfig
from rich.console import Console

from dogbreed.errors import UserError


def check_files(cfg: DictConfig, out: Console) -> None:
    """Looks at the images and weights of this machine, and says how many images there are.

    Raises:
        UserError: there are none.
    """
    from dogbreed.data.index import SPLITS, build_index
    from dogbreed.storage.base import open_store

    if cfg.backend.name != "local":
        return
    url, weights = str(cfg.data.url), str(cfg.model.weights)
    if weights not in ("hub", "random") and "://" not in weights and not Path(weights).expanduser().is_file():
        raise UserError(f"model.weights={weights}: no such file (or type hub or random)")
    if url.startswith("s3://"):
        return  # the job lists it, with the job's own credentials
    parts = {"valid_fraction": cfg.data.valid_fraction, "test_fraction": cfg.data.test_fraction}
    index = build_index(open_store(url).entries(), url, seed=0, **parts)
    counts = ", ".join(f"{len(index.splits.get(name, ()))} {name}" for name in SPLITS)
    out.print(f"{len(index.classes)} classes; images: {counts}", soft_wrap=True)


def check_reachable(cfg: DictConfig) -> None:
    """Checks that a job at AWS can reach the images, the weights and its requirements.

    Raises:
        UserError: it cannot; the message says what to type.
    """
    url, weights, backend = str(cfg.data.url), str(cfg.model.weights), cfg.backend
    if not url.startswith(("s3://", "demo://")):
        raise UserError(
            f"data.url={url} is a folder of this machine, which a job at AWS cannot read: "
            f"aws s3 sync {url} s3://BUCKET/PREFIX, then data=s3 data.url=s3://BUCKET/PREFIX"
        )
    if weights not in ("hub", "random") and not weights.startswith("s3://"):
        raise UserError(
            f"model.weights={weights} is a file of this machine, which a job at AWS cannot read: "
            f"aws s3 cp {weights} s3://BUCKET/PREFIX/, then model.weights=s3://BUCKET/PREFIX/{Path(weights).name}"
        )
    if not backend.network_isolation:
        return
    if backend.image is None:
        raise UserError(
            "backend.network_isolation=true: nothing can be installed in the job; "
            "give backend.image=URI of an image that holds what requirements.txt lists"
        )
    if url.startswith("s3://") and backend.input_mode is None:
        raise UserError("backend.network_isolation=true: jobs cannot stream; add backend.input_mode=FastFile or File")
    if weights == "hub":
        raise UserError("backend.network_isolation=true: the hub cannot be reached; give model.weights=s3://... too")
