"""The pytest plugin of `peer_suite.py`: puts this package in TransformerLens' place, and writes down what came out."""

# pyright: reportMissingImports=false
import json
import os
from pathlib import Path

import huggingface_hub
import pytest
from peer_suite_hub import cached_files

PACKAGE, RESULT = json.loads(os.environ["PEER_SUITE"])
outcomes: dict[str, str] = {}


@pytest.hookimpl(trylast=True)  # after jaxtyping's, which checks the types of what is imported later
def pytest_configure(config) -> None:
    if PACKAGE != "interp_hooks":
        return
    from interp_hooks import compat

    compat.install()
    from transformer_lens.utilities import hf_utils

    hf_utils.enable_hf_retry = lambda: None  # their conftest has downloads tried again; here there are none


def pytest_collectreport(report) -> None:
    if report.failed:
        outcomes[report.nodeid] = _last_line(report)


def pytest_runtest_logreport(report) -> None:
    if report.failed:
        outcomes[report.nodeid] = outcomes.get(report.nodeid) or _last_line(report)
    elif report.skipped:
        outcomes[report.nodeid] = "skipped"
    else:
        outcomes.setdefault(report.nodeid, "")


def _last_line(report) -> str:
    """The line of a traceback that says what went wrong."""
    crash = getattr(report.longrepr, "reprcrash", None)
    lines = (crash.message if crash else str(report.longrepr)).strip().splitlines()
    said = [line for line in lines if line.startswith("E  ")] or lines
    return (said[-1] if not crash else lines[0])[:300]


def pytest_sessionfinish() -> None:
    Path(RESULT).write_text(json.dumps(outcomes, indent=1))


huggingface_hub.HfApi.list_repo_files = cached_files
