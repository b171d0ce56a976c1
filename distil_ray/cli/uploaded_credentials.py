"""Warns of credentials in the working directory of a submitted Ray job.

`ray job submit --working-dir .` uploads the whole folder to the cluster: every node gets a copy, and it stays in Ray's
store. Only files that `.gitignore` and `.rayignore` name stay behind. A token or key in that folder is thus readable by
everybody who can run code on the cluster.
"""

import fnmatch
import json
import logging
import os
from collections.abc import Iterator, Mapping
from pathlib import Path

logger = logging.getLogger(__name__)

# Set by Ray for the driver of a submitted job, with the job's runtime_env.
JOB_CONFIG_VARIABLE = "RAY_JOB_CONFIG_JSON_ENV_VAR"

CREDENTIAL_NAMES = (
    *("*auth_token*", "*.token", ".env", ".env.*", ".netrc", ".pgpass", ".npmrc", ".pypirc", "kubeconfig"),
    *("credentials", "credentials.json", "client_secret*.json", "service_account*.json", "service-account*.json"),
    *("*.pem", "*.key", "*.p12", "*.pfx", "id_rsa", "id_dsa", "id_ecdsa", "id_ed25519"),
)
SKIPPED_FOLDERS = {".git", ".venv", "venv", "node_modules", "__pycache__"}
FILES_SHOWN = 5


def warn_of_credentials(environment: Mapping[str, str] = os.environ, folder: Path = Path()) -> None:
    """Logs a warning if the job's working directory was uploaded and holds files that look like credentials.

    Args:
        environment: Environment of the process.
        folder: Working directory of the process.
    """
    if not _is_uploaded(environment):
        return
    found = sorted(find_credentials(folder))
    if found:
        names = ", ".join(found[:FILES_SHOWN]) + (" …" if len(found) > FILES_SHOWN else "")
        logger.warning(
            "the job's working directory was uploaded to the cluster with files that look like credentials: %s."
            " Keep them outside of --working-dir, or name them in .rayignore; replace them if others use this cluster",
            names,
        )


def find_credentials(folder: Path) -> Iterator[str]:
    """Yields the files below `folder` whose names are typical of credentials, as paths relative to it."""
    for parent, folders, files in os.walk(folder):
        folders[:] = [name for name in folders if name not in SKIPPED_FOLDERS]
        for name in files:
            if any(fnmatch.fnmatch(name.lower(), pattern) for pattern in CREDENTIAL_NAMES):
                yield os.path.relpath(Path(parent, name), folder)


def _is_uploaded(environment: Mapping[str, str]) -> bool:
    try:
        job = json.loads(environment.get(JOB_CONFIG_VARIABLE, "null"))
        return bool(job["runtime_env"]["working_dir"])
    except (ValueError, KeyError, TypeError):
        return False
