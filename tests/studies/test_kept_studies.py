"""What studies say about some prompts is kept with what it came from: saved, loaded, computed again bit for bit."""

from collections.abc import Callable
from pathlib import Path

import pytest
import torch

from interp_hooks import HookedTransformer, LogitDiff, Result, Task
from interp_hooks.studies import (
    composing_heads,
    composition_parts,
    content_circuit,
    direct_effect_by_source,
    norm_effects,
    path_effects,
    position_profile,
    score_split,
    token_paths,
    weight_composition,
)
from tests.tiny import build, random_tokens

STUDIES: dict[str, Callable[[HookedTransformer, Task], Result]] = {
    "score_split": lambda model, task: score_split(model, task, 1, 0, "query", "key", against="other"),
    "composition_parts": lambda model, task: composition_parts(model, task, "K", query="query", key="key"),
    "composing_heads": lambda model, task: composing_heads(model, task, query="query").shares,
    "weight_composition": lambda model, task: weight_composition(model, "K").kernel_z,
    "path_effects": lambda model, task: path_effects(model, task, via=["K"]),
    "token_paths": lambda model, task: token_paths(model, task, (0, 1), (1, 0), "K", query="query", key="key"),
    "position_profile": lambda model, task: position_profile(model, task.clean, 1),
    "content_circuit": lambda model, task: content_circuit(model, 1, 0, [1, 2, 3]),
    "direct_effect_by_source": lambda model, task: direct_effect_by_source(model, task),
    "norm_effects": lambda model, task: norm_effects(model, task),
}


@pytest.fixture(scope="module")
def model() -> HookedTransformer:
    return build(dtype=torch.float32)


@pytest.fixture(scope="module")
def task() -> Task:
    clean, corrupt = (random_tokens(batch=3, pos=6, d_vocab=23, seed=seed) for seed in (1, 2))
    ends = dict(query=torch.tensor([5, 4, 5]), key=torch.tensor([1, 2, 0]), other=torch.tensor([0, 3, 2]))
    answer, wrong = torch.tensor([3, 5, 7]), torch.tensor([2, 4, 6])
    metric = LogitDiff(answer, wrong)
    return Task(name="", clean=clean, corrupt=corrupt, answer=answer, wrong=wrong, metric=metric, positions=ends)


@pytest.mark.parametrize("name", STUDIES)
def test_a_study_is_kept_with_what_it_came_from(
    name: str, model: HookedTransformer, task: Task, tmp_path: Path
) -> None:
    found = STUDIES[name](model, task)
    found.save(tmp_path / "kept")
    again = Result.load(tmp_path / "kept").rerun(model)
    assert again.values.isnan().equal(found.values.isnan())  # of pairs that are none
    assert again.values.nan_to_num(0.0).equal(found.values.nan_to_num(0.0))
    assert {**again.axes} == {**found.axes}
