"""fsspec's file systems, by scheme and with the settings of `storage`."""

import os
from functools import lru_cache
from typing import Any

import fsspec

from distil_ray.config import StorageConfig
from distil_ray.storage.http import make_session_factory
from distil_ray.storage.uris import is_http


def open_file_system(scheme: str, config: StorageConfig, *, encoded: bool) -> fsspec.AbstractFileSystem:
    """Returns the file system of a scheme. Listings are never cached: another process may have written since.

    But for Hugging Face's hub: its client tells a file's version only where it keeps listings, and data sets change
    less often than jobs run.

    Args:
        scheme: Of the URI.
        config: Settings; where they leave S3's endpoint and region open, the environment is asked.
        encoded: Web addresses are sent as they are.

    Raises:
        ImportError, ValueError: The scheme is unknown, or its package is missing.
    """
    return _file_system(scheme, config, *_s3_endpoint_and_region(config), encoded)


@lru_cache(maxsize=32)
def _file_system(
    scheme: str, config: StorageConfig, endpoint: str | None, region: str | None, encoded: bool
) -> fsspec.AbstractFileSystem:
    options: dict[str, Any] = {} if scheme == "hf" else {"use_listings_cache": False}
    if scheme in {"s3", "s3a"}:
        options |= {
            "anon": config.anonymous,
            "endpoint_url": endpoint,
            "client_kwargs": {"region_name": region} if region else {},
            "config_kwargs": {
                "retries": {"max_attempts": config.max_attempts, "mode": "standard"},
                "connect_timeout": config.timeout_s,
                "read_timeout": config.timeout_s,
            },
        }
    elif is_http(f"{scheme}://"):
        options |= {"get_client": make_session_factory(config.max_attempts, config.timeout_s), "encoded": encoded}
    return fsspec.filesystem(scheme, **options)


def _s3_endpoint_and_region(config: StorageConfig) -> tuple[str | None, str | None]:
    """Returns (endpoint, region) from the config, else from the environment."""
    endpoint = config.endpoint_url or os.environ.get("AWS_ENDPOINT_URL_S3") or os.environ.get("AWS_ENDPOINT_URL")
    region = config.region or os.environ.get("AWS_REGION") or os.environ.get("AWS_DEFAULT_REGION")
    return endpoint, region
