"""Credentials of an assumed role are used for every request and renewed before they expire."""

import asyncio
import os
import re
from pathlib import Path

import boto3
import pytest

from benchmarks.proxy import Proxy
from dogbreed.storage import open_store
from dogbreed.storage.credentials import credential_provider

PROFILE = """
[profile trainer]
role_arn = arn:aws:iam::123456789012:role/trainer
source_profile = person
duration_seconds = 900
region = us-east-1
[profile person]
aws_access_key_id = AKIAPERSON
aws_secret_access_key = secret
"""


def test_role_is_assumed_and_renewed(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    server_of = pytest.importorskip("moto.server", reason="pip install 'moto[server]'").ThreadedMotoServer
    for name in [name for name in os.environ if name.startswith("AWS_")]:
        monkeypatch.delenv(name)
    (tmp_path / "config").write_text(PROFILE)
    monkeypatch.setenv("AWS_CONFIG_FILE", str(tmp_path / "config"))
    monkeypatch.setenv("AWS_SHARED_CREDENTIALS_FILE", str(tmp_path / "none"))
    monkeypatch.setenv("AWS_PROFILE", "trainer")
    server = server_of(port=0, verbose=False)
    server.start()
    host, port = server.get_host_and_port()
    proxy = Proxy(f"http://{host}:{port}")
    try:
        monkeypatch.setenv("AWS_ENDPOINT_URL_STS", f"http://{host}:{port}")
        client = boto3.client("s3", endpoint_url=f"http://{host}:{port}")
        client.create_bucket(Bucket="images")
        client.put_object(Bucket="images", Key="a/1.jpg", Body=b"1")

        store = open_store("s3://images", proxy.url)
        assert [entry.key for entry in store.list_objects()] == ["a/1.jpg"]
        assert asyncio.run(store.fetch("a/1.jpg")).data == b"1"
        heads = b"".join(proxy.heads)
        assert (
            len(re.findall(rb"(?i)credential=ASIA", heads))
            == len(re.findall(rb"(?i)x-amz-security-token: ", heads))
            == 2
        )

        # With a duration of 15 minutes, boto3 renews the credentials on every access.
        provide = credential_provider(boto3.Session())
        first, second = provide(), provide()
        assert first["access_key_id"] != second["access_key_id"]
        assert first["token"]
    finally:
        proxy.close()
        server.stop()
