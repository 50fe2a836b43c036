"""The system's limit on open files is compared with the setting for connections."""

from __future__ import annotations

import resource

import pytest

from notifier.counting import SPARE_CONNECTIONS
from notifier.file_limit import OWN_FILES, warn_if_file_limit_is_low

ENOUGH = 50_000 + SPARE_CONNECTIONS + OWN_FILES


@pytest.mark.parametrize("files", [ENOUGH, resource.RLIM_INFINITY])
def test_enough_files_are_not_logged(files: int, caplog: pytest.LogCaptureFixture) -> None:
    warn_if_file_limit_is_low(files, 50_000)
    assert not caplog.records


@pytest.mark.parametrize(("files", "clients"), [(ENOUGH - 1, 49_999), (1_024, 0), (20_000, 18_912)])
def test_fewer_files_than_clients_are_logged(
    files: int, clients: int, caplog: pytest.LogCaptureFixture
) -> None:
    """Beyond the limit, clients were neither accepted nor refused, and nothing was logged."""
    warn_if_file_limit_is_low(files, 50_000)
    [record] = caplog.records
    assert f"the limit on open files ({files}) allows only {clients} clients" in record.getMessage()
