"""Credentials in the working directory of a submitted job: found by name, and only warned of where it was uploaded."""

import json
import logging
from pathlib import Path

import pytest
from ray._private.runtime_env.constants import RAY_JOB_CONFIG_JSON_ENV_VAR

from distil_ray.cli.uploaded_credentials import (
    CREDENTIAL_NAMES,
    JOB_CONFIG_VARIABLE,
    find_credentials,
    warn_of_credentials,
)

ROOT = Path(__file__).resolve().parents[2]
UPLOADED = {JOB_CONFIG_VARIABLE: json.dumps({"runtime_env": {"working_dir": "gcs://_ray_pkg_1.zip"}, "metadata": {}})}


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    (tmp_path / "deploy").mkdir()
    for name in (".auth_token", "deploy/service_account.json", "configs.yaml", "tokens.txt", "monkey.py"):
        (tmp_path / name).touch()
    return tmp_path


def test_files_are_found_by_names_that_are_typical_of_credentials(folder: Path) -> None:
    assert sorted(find_credentials(folder)) == [".auth_token", "deploy/service_account.json"]


def test_an_uploaded_folder_with_a_credential_is_a_warning(folder: Path, caplog: pytest.LogCaptureFixture) -> None:
    with caplog.at_level(logging.WARNING):
        warn_of_credentials(UPLOADED, folder)

    (record,) = caplog.records
    assert ".auth_token, deploy/service_account.json" in record.getMessage()
    assert ".rayignore" in record.getMessage()


@pytest.mark.parametrize(
    "environment", [{}, {JOB_CONFIG_VARIABLE: "{}"}, {JOB_CONFIG_VARIABLE: '{"runtime_env": {}}'}], ids=str
)
def test_a_folder_that_was_not_uploaded_is_not_searched(
    environment: dict[str, str], folder: Path, caplog: pytest.LogCaptureFixture
) -> None:
    with caplog.at_level(logging.WARNING):
        warn_of_credentials(environment, folder)

    assert caplog.records == []


def test_the_variable_is_the_one_that_ray_sets() -> None:
    assert JOB_CONFIG_VARIABLE == RAY_JOB_CONFIG_JSON_ENV_VAR


def test_this_repository_uploads_none_of_them() -> None:
    ignored = (ROOT / ".rayignore").read_text(encoding="utf-8").splitlines()

    assert [name for name in CREDENTIAL_NAMES if name not in ignored] == []
    assert list(find_credentials(ROOT / "configs")) == []
