"""An S3 endpoint on loopback for the demo, and the local folder that its bucket is kept in between calls.

moto's server speaks enough S3 for the job (conditional puts among it) but forgets everything when it stops. So the
bucket is filled from a folder at the start and written back to it at the end. Etags of single puts are hashes of the
content, hence a recording that comes back is the same recording to the ledger, and nothing is recognized twice.
A run whose demo is killed outright (SIGKILL) loses what it had not written back; a real bucket keeps every task.
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
    """A running endpoint. `environment` is what a process needs to reach it by ``s3://``."""

    url: str
    bucket: str
    num_restored: int
    environment: dict[str, str]


@contextmanager
def serve_bucket(bucket: str, folder: Path) -> Iterator[Endpoint]:
    """Serves one bucket on a free port of 127.0.0.1, holding `folder`'s files; writes it back on leaving."""
    from moto.server import ThreadedMotoServer

    logging.getLogger("werkzeug").setLevel(logging.ERROR)  # a line for every request otherwise
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
    """A client that looks at no profile: one that the environment names may well be missing or be somebody's own."""
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
    """This process's environment, pointed at the endpoint: own profiles, sessions and proxies must not get between."""
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
    """Uploads every file below `folder`; gives their number. Single puts: an etag is then the content's MD5."""
    files = [path for path in sorted(folder.rglob("*")) if path.is_file()]
    for path in files:
        client.put_object(Bucket=bucket, Key=path.relative_to(folder).as_posix(), Body=path.read_bytes())
    return len(files)


def _save_files(client: Any, bucket: str, folder: Path) -> None:
    """Makes `folder` the bucket's copy: changed objects are written, files that have gone from it are deleted."""
    kept = set()
    for page in client.get_paginator("list_objects_v2").paginate(Bucket=bucket):
        for item in page.get("Contents", []):
            path = folder / item["Key"]
            kept.add(path)
            if not path.exists() or hashlib.md5(path.read_bytes()).hexdigest() != item["ETag"].strip('"'):
                path.parent.mkdir(parents=True, exist_ok=True)
                path.write_bytes(client.get_object(Bucket=bucket, Key=item["Key"])["Body"].read())
    for path in sorted(folder.rglob("*"), reverse=True):  # a folder's files come before the folder
        if path.is_file() and path not in kept:
            path.unlink()
        elif path.is_dir() and not any(path.iterdir()):
            path.rmdir()
