"""One Prefect server for all tests of flows."""

import warnings
from collections.abc import Iterator

import pytest


@pytest.fixture(scope="session", autouse=True)
def prefect() -> Iterator[None]:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        from prefect.testing.utilities import prefect_test_harness

        with prefect_test_harness(server_startup_timeout=420):
            yield
