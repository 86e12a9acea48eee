"""What `make test-wheel` adds: the tests run against the wheel, and not against the checkout beside them."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

import harness
from harness.planning.loading import builtin_folder

SITE = os.environ.get("HARNESS_TEST_SITE", "")


@pytest.mark.skipif(not SITE, reason="only under `make test-wheel`")
def test_the_tests_run_against_the_wheel() -> None:
    assert Path(harness.__file__).is_relative_to(SITE)
    assert builtin_folder() == Path(SITE) / "harness" / "_builtin"
    assert (Path(SITE) / "harness" / "py.typed").exists()
    assert not (Path(SITE) / "plugins").exists()
