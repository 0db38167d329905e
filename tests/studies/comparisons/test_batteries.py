"""Tasks that two models both do: scores are those of the metric, pairs are the same prompts, effects by formula."""

import pytest
import torch

from interp_hooks import HookedTransformer, evaluate, tasks
from interp_hooks.errors import BadInput
from interp_hooks.interventions import Run
from interp_hooks.studies import TaskComparison, compare_on_tasks, side_by_side
from tests.studies.comparisons.test_losses import reader
from tests.tiny import build


@pytest.fixture(scope="module")
def inducing() -> tuple[HookedTransformer, HookedTransformer]:
    one, two = (HookedTransformer.from_pretrained(f"induction-{layers}l", device="cpu") for layers in (1, 2))
    return one, two


def test_scores_are_those_of_the_metric(inducing) -> None:
    found = compare_on_tasks(*inducing, n=20, seed=4)
    assert list(found.scores) == ["induction"]
    task = tasks.induction(20, 65, seed=4)
    for model, scores in zip(inducing, found.scores["induction"], strict=True):
        with torch.no_grad():
            logits = model(task.clean)[:, -1]
        for row, answer in enumerate(task.answer.tolist()):
            others = [id for id in task.clean[row, 1:11].tolist() if id != answer]
            assert float(scores[row]) == pytest.approx(float(logits[row, answer] - logits[row, others].max()), abs=1e-4)
    row = found.table().iloc[0]
    a, b = found.scores["induction"]
    assert row["accuracy_other"] == pytest.approx(float((b > 0).double().mean()))
    assert row["difference"] == pytest.approx(float((b - a).mean()))
    deviation = ((a.var(correction=0) + b.var(correction=0)) / 2).sqrt()
    assert row["effect"] == pytest.approx(float((b - a).mean() / deviation))
    assert row["accuracy_other"] > 0.95
    assert row["accuracy_model"] < 0.5
    assert set(found.left_out) == {*found.left_out} - {"induction"}
    assert "tokenizer" in found.left_out["capitals"]


def test_a_model_beside_itself(inducing) -> None:
    table = compare_on_tasks(inducing[1], inducing[1], n=5).table()
    assert not table[["difference", "standard_error", "effect"]].to_numpy().any()


def test_other_tokenizers_are_compared_on_the_same_prompts() -> None:
    a, b = reader("neox", 0), reader("llama", 1)
    made = [tasks.ioi(a, 6), tasks.ioi(b, 4)]
    found = compare_on_tasks(a, b, {"ioi": lambda model, n, seed: made[model is b]}, n=6)
    assert len(found.prompts["ioi"]) == 4
    expected = [text for text in made[0].clean if text in made[1].clean]
    assert found.prompts["ioi"] == expected
    for model, task, scores in zip((a, b), made, found.scores["ioi"], strict=True):
        run = Run(model.to_tokens(task.clean), (), model.padding_of(model.to_tokens(task.clean)).real)
        every = dict(zip(task.clean, evaluate(model, [run], task.metric)[0].tolist(), strict=True))
        assert scores.tolist() == pytest.approx([every[text] for text in expected])


def test_outliers_are_what_the_rest_is_not() -> None:
    scores = torch.zeros(2, 9, dtype=torch.float64)
    scores[1] = torch.tensor([1.0, 1.1, 0.9, 1, 1.05, 0.95, 1, 1, -3])
    found = TaskComparison(scores={"t": scores}, prompts={"t": list("abcdefghi")}, metrics={"t": "logit_diff"})
    table = found.outliers(2)
    assert table.loc[0, "prompt"] == "i"
    spread = float((scores[1] - 1).abs().median())
    assert table.loc[0, "deviations"] == pytest.approx(-4 / (1.4826 * spread))


def test_it_is_kept(inducing, tmp_path) -> None:
    found = compare_on_tasks(*inducing, n=5)
    found.save(tmp_path / "tasks")
    loaded = TaskComparison.load(tmp_path / "tasks")
    assert loaded.table().equals(found.table())
    assert loaded.outliers().equals(found.outliers())
    assert loaded.scores_of("induction").values.shape == (2, 5)


def test_texts_are_those_that_each_model_writes() -> None:
    a, b = reader("neox", 0), reader("llama", 1)
    prompts = ["When Mary and John", "Then"]
    table = side_by_side(a, b, prompts, max_new_tokens=3)
    for model, column in ((a, "model"), (b, "other")):
        for prompt, written in zip(prompts, table[column], strict=True):
            assert prompt + written == model.generate(prompt, 3, do_sample=False, verbose=False, return_type="str")
    drawn = side_by_side(a, a, prompts, max_new_tokens=3, do_sample=True, seed=1)
    assert drawn["model"].equals(drawn["other"]), "both draw from the same seed"


def test_what_cannot_be_done(inducing) -> None:
    with pytest.raises(BadInput, match="no task can be done by both models: induction: "):
        compare_on_tasks(build(d_vocab=3, d_vocab_out=3), inducing[0], n=4)
    with pytest.raises(BadInput, match="two prompts"):
        compare_on_tasks(*inducing, n=1)
    with pytest.raises(BadInput, match="there is no task 'ioi'"):
        compare_on_tasks(*inducing, n=2).scores_of("ioi")
    with pytest.raises(BadInput, match="list of prompts"):
        side_by_side(*inducing, [])
