"""A client's own tests, of its checkout: each is a step, without numbers.

python client_tests.py CHECKOUT
"""

import contextlib
import io
import json
import os
import sys
import time
from typing import Any
from unittest.mock import MagicMock

import pytest
from client_steps import let_cuda_be_the_cpu, let_moved_names_be_there


class Told:
    """Tells the outcome of every test as a line of JSON; one that is skipped is none."""

    def __init__(self) -> None:
        self.out, self.started = sys.stdout, 0.0

    def pytest_runtest_logstart(self, nodeid: str, location: Any) -> None:
        self.started = time.process_time()

    def tell(self, step: str, seconds: float, error: str | None) -> None:
        told = {"step": step, "seconds": seconds, "error": error, "numbers": []}
        print(json.dumps(told), file=self.out, flush=True)

    def pytest_runtest_logreport(self, report: Any) -> None:
        if (report.when == "call" and not report.skipped) or report.failed:
            crash = getattr(report.longrepr, "reprcrash", None)
            said = (crash.message if crash else str(report.longrepr))[:300]
            self.tell(report.nodeid, time.process_time() - self.started, said if report.failed else None)

    def pytest_collectreport(self, report: Any) -> None:
        if report.failed:
            self.tell(report.nodeid, 0.0, str(report.longrepr)[-300:])


for name in ("tracr", *(f"tracr.{part}" for part in ("compiler", "compiler.assemble", "compiler.lib", "rasp"))):
    sys.modules[name] = MagicMock()  # what a few tests need and others import, with a framework of its own
let_moved_names_be_there()
let_cuda_be_the_cpu()
checkout = sys.argv[1]
sys.path.insert(0, checkout)
os.chdir(checkout)
told = Told()
with contextlib.redirect_stdout(io.StringIO() if "debug" not in sys.argv else sys.stdout):
    options = ["-q", "--continue-on-collection-errors", "-p", "no:cacheprovider", "-p", "no:jaxtyping"]
    pytest.main([*options, "--rootdir", checkout, "tests"], plugins=[told])
