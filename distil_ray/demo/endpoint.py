"""A local S3 endpoint for the demo, and the folder that keeps its bucket between calls.

The server of moto supports the S3 operations that the job needs, conditional puts among them, but it keeps objects in
memory only. The bucket is therefore filled from a folder at the start and written back at the end. ETags of single
puts are hashes of the content, so a restored recording has the same identity in the ledger and is not transcribed
again. A demo that is killed by SIGKILL loses the objects that were not written back; a real bucket keeps every task.
"""

import hashlib
import logging
import os
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

REGION = "us-east-1"


@dataclass(frozen=True, slots=True)
class Endpoint:
    """A running endpoint.

    Attributes:
        url: Address of the endpoint.
        bucket: Name of the bucket.
        num_restored: Number of files that the bucket was filled with.
        environment: Environment variables for a process that uses the endpoint through ``s3://`` URIs.
    """

    url: str
    bucket: str
    num_restored: int
    environment: dict[str, str]


@contextmanager
def serve_bucket(bucket: str, folder: Path) -> Iterator[Endpoint]:
    """Serves a bucket with the files of `folder` on a free port of 127.0.0.1; writes it back to `folder` on exit."""
    from moto.server import ThreadedMotoServer

    logging.getLogger("werkzeug").setLevel(logging.ERROR)  # otherwise one line per request
    server = ThreadedMotoServer(ip_address="127.0.0.1", port=0, verbose=False)
    server.start()
    try:
        host, port = server.get_host_and_port()
        url = f"http://{host}:{port}"
        client = _client(url)
        client.create_bucket(Bucket=bucket)
        num_restored = _upload_files(client, bucket, folder)
        try:
            yield Endpoint(url, bucket, num_restored, _environment(url))
        finally:
            _save_files(client, bucket, folder)
    finally:
        server.stop()


def _client(url: str) -> Any:
    """Returns an S3 client without an AWS profile: a profile in the environment may be missing or a real account."""
    from botocore.config import Config
    from botocore.session import Session

    session = Session(session_vars={"profile": (None, None, None, None)})
    return session.create_client(
        "s3",
        endpoint_url=url,
        region_name=REGION,
        aws_access_key_id="demo",
        aws_secret_access_key="demo",
        config=Config(proxies={}, s3={"addressing_style": "path"}),
    )


def _environment(url: str) -> dict[str, str]:
    """Returns the environment of this process for the endpoint, without AWS profiles, sessions and proxies."""
    inherited = {name: value for name, value in os.environ.items() if not name.startswith("AWS_")}
    direct = ",".join(filter(None, (os.environ.get("NO_PROXY") or os.environ.get("no_proxy"), "127.0.0.1")))
    return inherited | {
        "AWS_ENDPOINT_URL": url,
        "AWS_ACCESS_KEY_ID": "demo",
        "AWS_SECRET_ACCESS_KEY": "demo",
        "AWS_DEFAULT_REGION": REGION,
        "NO_PROXY": direct,
        "no_proxy": direct,
    }


def _upload_files(client: Any, bucket: str, folder: Path) -> int:
    """Uploads every file below `folder` in a single put, so that its ETag is an MD5; returns the number of files."""
    files = [path for path in sorted(folder.rglob("*")) if path.is_file()]
    for path in files:
        client.put_object(Bucket=bucket, Key=path.relative_to(folder).as_posix(), Body=path.read_bytes())
    return len(files)


def _save_files(client: Any, bucket: str, folder: Path) -> None:
    """Makes `folder` a copy of the bucket: writes changed objects and deletes files without an object."""
    kept = set()
    for page in client.get_paginator("list_objects_v2").paginate(Bucket=bucket):
        for item in page.get("Contents", []):
            if item["Key"].endswith("/"):  # an empty object that some programs write for a folder
                continue
            path = folder / item["Key"]
            kept.add(path)
            if not path.exists() or hashlib.md5(path.read_bytes()).hexdigest() != item["ETag"].strip('"'):
                path.parent.mkdir(parents=True, exist_ok=True)
                path.write_bytes(client.get_object(Bucket=bucket, Key=item["Key"])["Body"].read())
    for path in sorted(folder.rglob("*"), reverse=True):  # files before their folder
        if path.is_file() and path not in kept:
            path.unlink()
        elif path.is_dir() and not any(path.iterdir()):
            path.rmdir()
