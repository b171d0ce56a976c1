"""What the tests of faulty storage share."""

import pytest

from tests.faults.proxy import FaultyProxy


@pytest.fixture
def proxy(s3_environment: str) -> FaultyProxy:
    """A proxy before the S3 server that lets everything through until it is told otherwise."""
    return FaultyProxy(s3_environment, seed=11)
