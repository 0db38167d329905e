"""Every public name is documented with an example, and the example runs.

An example is a part of the docstring in the interpreter's form, `>>> result = patch(model, ...)`, which may use any
public name, `torch`, and what `world` holds. Output that is written down is compared.
"""

import doctest
import importlib
import inspect
from collections.abc import Mapping
from typing import Any

import pytest
import torch

import interp_hooks
from interp_hooks.errors import arguments
from tests.house import ROOMS

FLAGS = doctest.ELLIPSIS | doctest.NORMALIZE_WHITESPACE


@pytest.fixture(scope="module")
def world() -> dict[str, Any]:
    """A model with a known task: prompts, counterfactual prompts, and the metric that tells them apart."""
    model = interp_hooks.HookedTransformer.from_pretrained("ioi-tiny", device="cpu")
    pairs = interp_hooks.ioi_pairs(model, 4)
    named = {name: getattr(interp_hooks, name) for name in interp_hooks.__all__}
    return named | {
        "torch": torch,
        "model": model,
        "pairs": pairs,
        "clean": pairs.clean,
        "corrupt": pairs.corrupt,
        "metric": interp_hooks.LogitDiff(pairs.answer, pairs.wrong),
    }


def examples_of(value: Any) -> list[doctest.Example]:
    return doctest.DocTestParser().get_examples(inspect.getdoc(value) or "")


def run_example(name: str, value: Any, names: Mapping[str, Any]) -> None:
    """Run the example in a docstring, which has to use what it is of."""
    examples = examples_of(value)
    assert examples, f"the docstring of {name} has no example"
    assert any(name in example.source for example in examples), f"the example of {name} does not use it"
    test = doctest.DocTest(examples, dict(names), name, inspect.getsourcefile(value), 0, None)
    told: list[str] = []
    results = doctest.DocTestRunner(optionflags=FLAGS).run(test, out=told.append)
    assert results.failed == 0, "".join(told)


@pytest.mark.parametrize("name", interp_hooks.__all__)
def test_the_example_runs(name: str, world: dict[str, Any], monkeypatch: pytest.MonkeyPatch, tmp_path: Any) -> None:
    monkeypatch.chdir(tmp_path)
    value = getattr(interp_hooks, name)
    run_example(name, value, world)


CHECKING = {"@checked", "@study", "@experiment", "@at_places"}  # decorators that refuse what annotations rule out


def test_words_and_counts_that_annotations_say_are_checked() -> None:
    """Of each public function: what its annotations list is refused at its door, and nowhere else."""
    unchecked, seen = [], 0
    for room in {*ROOMS} - {"__main__", "cli", "errors"}:
        module = importlib.import_module(f"interp_hooks.{room}")
        for name in getattr(module, "__all__", []):
            function = getattr(module, name)
            if not inspect.isfunction(function):
                continue
            kinds = arguments._kinds(inspect.unwrap(function))
            said = [kind for kind in kinds.values() if arguments._choices(kind) or arguments._least(kind) is not None]
            seen += bool(said)
            decorators = inspect.getsource(inspect.unwrap(function)).partition("\ndef ")[0].splitlines()
            if said and not {line.partition("(")[0] for line in decorators} & CHECKING:
                unchecked.append(f"{room}.{name}")
    assert seen > 50
    assert unchecked == []
