"""What lies beside the package agrees with it: the citation, the workflow, the forms for reports, the hooks of git."""

import re
from importlib.metadata import requires
from pathlib import Path
from typing import Any

import pytest
from packaging.requirements import Requirement

import interp_hooks

yaml = pytest.importorskip("yaml", reason="PyYAML is not installed; transformers brings it")

ROOT = Path(__file__).parents[1]
FORMS = sorted((ROOT / ".github" / "ISSUE_TEMPLATE").glob("*.yml"))


def read(path: str | Path) -> Any:
    return yaml.safe_load((ROOT / path).read_text(encoding="utf-8"))


def test_the_citation_is_of_this_version() -> None:
    citation = read("CITATION.cff")
    assert citation["version"] == interp_hooks.__version__
    project = (ROOT / "pyproject.toml").read_text(encoding="utf-8")
    assert f'\nlicense = "{citation["license"]}"\n' in project


def test_the_workflow_runs_what_a_contributor_runs() -> None:
    jobs = read(".github/workflows/ci.yml")["jobs"]
    commands = [step["run"] for job in jobs.values() for step in job["steps"] if "run" in step]
    assert commands == [".ci/run", "make floor"]
    (oldest,) = (step["with"]["python-version"] for step in jobs["oldest"]["steps"] if "with" in step)
    assert f'requires-python = ">={oldest}"' in (ROOT / "pyproject.toml").read_text(encoding="utf-8")


def test_every_python_that_is_allowed_has_one_version_of_everything() -> None:
    """A package stands there once, or once for Python 3.10 and once for later ones."""
    pinned: dict[str, list[str]] = {}
    for line in (ROOT / "constraints.txt").read_text(encoding="utf-8").splitlines():
        if not line.startswith("#"):
            name, _, rest = line.partition("==")
            pinned.setdefault(name, []).append(rest.partition(";")[2].strip())
    for name, markers in pinned.items():
        assert markers in ([""], ['python_version >= "3.11"', 'python_version < "3.11"']), name


def test_what_the_install_line_changes_in_colab_is_what_the_manual_says() -> None:
    """Of the versions that the manual says are there, those that are told to stay are allowed; no other is left out."""
    (told,) = re.findall(
        r"In Colab's image of (.*?)\n\n", (ROOT / "docs/index.md").read_text(encoding="utf-8"), re.DOTALL
    )
    stays, changes = told.split("stay as they are")
    there = dict(re.findall(r"(\w+)\s(\d+\.\d+\.\d+)", stays))
    needs = {one.name: one.specifier for one in map(Requirement, requires("interp-hooks") or []) if not one.marker}
    assert {*needs} - {*there} == {"jaxtyping", "plotly"}
    assert all(version in needs[name] for name, version in there.items())
    (older,) = re.findall(r"plotly (\d+\.\d+\.\d+)", changes)
    assert older not in needs["plotly"]


def test_commands_of_the_hooks_of_git_are_those_of_lint() -> None:
    (local,) = read(".pre-commit-config.yaml")["repos"]
    entries = [hook["entry"] for hook in local["hooks"]]
    lint = (ROOT / "Makefile").read_text(encoding="utf-8")
    for tool in ("ruff check", "ruff format", "pyright"):
        assert any(tool in entry for entry in entries)
        assert f"$(BIN)/{tool}" in lint


@pytest.mark.parametrize("form", FORMS, ids=lambda path: path.stem)
def test_forms_ask_for_what_is_needed(form: Path) -> None:
    asked = read(form)
    assert asked["name"]
    assert asked["description"]
    names = [field["id"] for field in asked["body"]]
    assert len(names) == len({*names})
    assert any(field.get("validations", {}).get("required") for field in asked["body"])
