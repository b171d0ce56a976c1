"""A location finds its form, the run says which, and what no form reads is refused."""

from typing import get_args

import pytest

from distil_ray.config import InputConfig
from distil_ray.errors import InputError
from distil_ray.sources import list_recordings
from distil_ray.sources.forms import FORMS
from distil_ray.storage import Storage
from tests.sources.conftest import Place, listed


def test_every_form_can_be_forced_by_its_name() -> None:
    choices = get_args(InputConfig.model_fields["form"].annotation)
    assert sorted(choices) == sorted(["auto", *(form.name for form in FORMS)])
