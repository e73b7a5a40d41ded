"""Publishes images: checks them, repairs them without re-encoding, and uploads them to S3 or a folder.

    python -m launch.publish dogImages.zip s3://BUCKET/dogImages                    a zip archive
    python -m launch.publish PATH/pets PATH/checked                                 a folder
    python -m launch.publish https://HOST/PATH.zip s3://BUCKET/dogImages            a URL of an archive
    python -m launch.publish dogImages.zip s3://BUCKET/dogImages dry_run=true       checks, but writes nothing

Corrupt and oversized images are skipped. Wrong extensions, junk bytes before a JPEG and missing end markers are
repaired. All skipped and repaired files are listed in outputs/published/. The images are
compared with those at the target, so the same command resumes after an interruption. Finally a manifest is written,
which trainings read instead of listing the images. Downloads are kept in outputs/downloads/.

The exit status is 0 if the images are published, 1 if the network or a disk failed, 130 after Ctrl-C.
"""

from __future__ import annotations

import shlex
import time

from dogbreed.cli.command import run_cli
from dogbreed.errors import UserError
from dogbreed.publishing.disk import TransferError
from dogbreed.publishing.publish import publish
from launch.cli import FAILURE, SUCCESS, split_argv
from launch.spec.settings import SCHEMAS, compose
from launch.views.publishing import PublishView, result_line
from launch.views.text import console, duration


def main(argv: list[str]) -> int:
    """Publishes `SOURCE TARGET`; returns 0, 1 if the network or a disk failed, or 130 after Ctrl-C."""
    args, started = split_argv(argv), time.monotonic()
    if len(args.names) != 2:
        raise UserError("give a source and a target: python -m launch.publish dogImages.zip s3://BUCKET/dogImages")
    source, target = args.names
    cfg, out = compose("publish", args.overrides), console()
    view = PublishView(out)
    try:
        publication = publish(source, target, view, **{str(key): value for key, value in cfg.items()})
    except KeyboardInterrupt:
        out.print(f"stopped after {view.num_uploaded}; run the same command to resume", soft_wrap=True)
        return 130
    except TransferError as error:
        after = f"{view.num_uploaded} in {duration(time.monotonic() - started)}"
        console(stderr=True).print(f"error: {error}; {after}, run the same command to resume", soft_wrap=True)
        return FAILURE
    out.print(result_line(publication, cfg.dry_run), soft_wrap=True)
    if not cfg.dry_run:
        overrides = [f"data={'s3' if target.startswith('s3://') else 'folder'}", f"data.url={target}"]
        overrides += [f"data.endpoint_url={cfg.endpoint_url}"] if cfg.endpoint_url else []
        out.print(f"train: {shlex.join(['python', '-m', 'launch.tune', 'lr=range', *overrides])}", soft_wrap=True)
    return SUCCESS


if __name__ == "__main__":
    run_cli(main, __doc__, SCHEMAS["publish"], "publish")
