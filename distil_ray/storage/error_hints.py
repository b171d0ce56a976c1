"""What to do about what a store, a disk or a network says: a sentence for the errors that people meet most.

Looks at an error and at what caused it, because s3fs turns S3's codes into OSError and keeps them behind it. Knows
words only: which error becomes what is storage.py's.
"""

from collections.abc import Iterator

SETTINGS = "See storage.endpoint_url, or AWS_ENDPOINT_URL, and the network."
REGION = "The bucket lies in another region: set storage.region, or AWS_REGION, to its own."

# The first line whose words are in the error, or in what caused it, is the one that is said.
REMEDIES = (
    (
        ("NoCredentialsError", "PartialCredentialsError"),
        "Put AWS_ACCESS_KEY_ID and AWS_SECRET_ACCESS_KEY into the environment (or AWS_PROFILE, or give the machine a"
        " role); public buckets are read with storage.anonymous=true.",
    ),
    (("InvalidAccessKeyId",), "AWS_ACCESS_KEY_ID is not known there: see whose store storage.endpoint_url is."),
    (("SignatureDoesNotMatch",), "AWS_SECRET_ACCESS_KEY does not belong to AWS_ACCESS_KEY_ID."),
    (("ExpiredToken", "TokenRefreshRequired"), "The credentials have run out: get new ones, with AWS_SESSION_TOKEN."),
    (("PermanentRedirect", "AuthorizationHeaderMalformed", "IllegalLocationConstraint", "(301)"), REGION),
    (
        ("AccessDenied",),
        "These credentials may not: reading takes s3:ListBucket and s3:GetObject, writing s3:PutObject and"
        " s3:DeleteObject as well.",
    ),
    # to a question about a single file S3 gives a number and no reason
    (
        ("Forbidden", "(403)"),
        "See that AWS_ACCESS_KEY_ID and AWS_SECRET_ACCESS_KEY are this store's, and that they may read"
        " (s3:ListBucket, s3:GetObject).",
    ),
    (("Bad Request", "(400)"), "See that storage.region is the bucket's, and that the credentials have not run out."),
    (("EndpointConnectionError", "Invalid endpoint", "ConnectTimeoutError"), SETTINGS),
    (("ClientConnectorError", "Name or service not known"), "See the address, and the network."),
    (("No space left on device", "Disk quota exceeded"), "Free some space, or name another place."),
    (("Read-only file system", "Permission denied"), "Name a place that this user may write to."),
    (("Not a directory", "File exists"), "A file is in the way: name a folder."),
)


def remedy(error: BaseException) -> str:
    """A sentence to be put behind a message, its full stop and space before it; or nothing."""
    words = " ".join(f"{type(one).__name__} {one}" for one in _with_causes(error))
    return next((f". {advice}" for needles, advice in REMEDIES if any(needle in words for needle in needles)), "")


def _with_causes(error: BaseException | None) -> Iterator[BaseException]:
    while error is not None:
        yield error
        error = error.__cause__
