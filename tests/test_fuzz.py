"""A short run of the fuzzer with a fixed seed: every public call refuses in this package's words, and soon.

`python -m tests.fuzz 600 --seed 1` is a long one.
"""

from typing import Any

import pytest
import torch

from interp_hooks import (
    FactoredMatrix,
    HookedTransformer,
    HookedTransformerConfig,
    HookPoint,
    circuits,
    compat,
    corpus,
    gradient_x_input,
    integrated_gradients,
    ioi_pairs,
    tasks,
)
from interp_hooks.errors import BadInput, ConfigError, InterpHooksError, OutOfRange, UnknownHook
from interp_hooks.errors.arguments import Count, Seed, described, fits
from interp_hooks.model.training import HookedTransformerTrainConfig
from tests import fuzz
from tests.tiny import unchecked_types

CALLS = 400


def test_no_bare_errors() -> None:
    made, wrong = fuzz.fuzz(60, seed=5, calls=CALLS)
    assert made == CALLS, "it was too slow"
    assert not wrong, "\n".join(f"{what}\n    {shown}" for what, shown in wrong.items())


def test_a_bare_error_and_a_call_that_hangs_are_noticed(monkeypatch: pytest.MonkeyPatch) -> None:
    def bare(layer: int) -> Any:
        return [][3] if layer else None

    def endless(layer: int) -> None:
        while True:
            pass

    monkeypatch.setattr(fuzz, "PATIENCE", 0.2)
    for call, expected in ((bare, "IndexError"), (endless, "hangs")):
        monkeypatch.setattr(fuzz, "targets", fuzz.functools.cache(lambda call=call: {"call": call}))
        _, wrong = fuzz.fuzz(20, seed=0, calls=8)
        assert any(expected in what for what in wrong)


# ------------------------------------------------------------------------------------- what it has found, by hand


def test_absurd_counts_are_refused_before_anything_is_computed() -> None:
    w = fuzz.world()
    prompts = dict(model=w.model, prompts=w.pairs.clean, metric=w.metric, site="hook_embed")
    with unchecked_types():
        for call in (
            lambda: integrated_gradients(**prompts, steps=10**9),
            lambda: circuits.eap_ig(w.model, w.pairs, steps=10**12),
            lambda: ioi_pairs(w.model, 10**9),
            lambda: tasks.induction(n=10**9, d_vocab=20),
            lambda: w.result.interval(samples=10**10),
        ):
            with (
                fuzz.at_most(2),
                pytest.raises(BadInput, match=r"(steps|n|samples) must be an int of (at most|1 to) 1000000"),
            ):
                call()
    assert gradient_x_input(**prompts).values.isfinite().all()


def test_ranges_of_annotations() -> None:
    assert [fits(value, Count) for value in (3, -3, 10**6, 10**6 + 1, True, 2.0, "3")] == [True] * 3 + [False] * 4
    assert [fits(value, Seed) for value in (0, -1, 2**63 - 1, 2**63)] == [True, True, True, False]
    assert described(Count) == "an int of at most 1000000"
    assert described(Count | None) == "an int of at most 1000000"


@pytest.mark.parametrize(
    "given",
    [True, torch.tensor(True), torch.tensor(1j), torch.tensor(1.0), torch.ones(1), torch.ones((), device="meta")],
)
def test_what_is_no_int(given: Any) -> None:
    assert not fits(given, int)
    with unchecked_types(), pytest.raises(BadInput, match="layer must be an int"):
        fuzz.world().model.accumulated_bias(given)


def test_indices_of_a_factored_matrix() -> None:
    matrix = FactoredMatrix(torch.rand(3, 4, 2), torch.rand(3, 2, 5))
    assert len(list(matrix)) == 3, "iteration ends by an IndexError"
    for index in (3, -4, (0, 4), (0, 0, 5), [5]):
        with pytest.raises(OutOfRange, match="does not fit a matrix of shape"):
            matrix[index]
    for index in ("x", 1.5, object(), torch.tensor([0.5]), {}):
        with unchecked_types(), pytest.raises(BadInput, match="an index is an int"):
            matrix[index]
    with pytest.raises(BadInput, match=r"multiplied with one of the same dtype, got a torch\.int64 tensor \[5\]"):
        matrix @ torch.ones(5, dtype=torch.long)


def test_options_that_an_experiment_has_not() -> None:
    w = fuzz.world()
    result = gradient_x_input(w.model, w.pairs, site="hook_embed")
    with pytest.raises(InterpHooksError, match="has no argument 'save_to'"):
        result.rerun(w.model, save_to="somewhere")


def test_flags_and_filters_of_hook_methods() -> None:
    model, tokens, two = fuzz.world().model, fuzz.world().tokens, torch.ones(2)
    calls: dict[str, Any] = {
        "clear_contexts must be a bool": lambda: model.reset_hooks(clear_contexts=two),
        "reset_hooks_end must be a bool": lambda: model.hooks(reset_hooks_end=two),
        "incl_bwd must be a bool": lambda: model.cache_all(None, incl_bwd=two),
        "cache must be a dict": lambda: model.add_caching_hooks(cache=["a"]),
        "return_cache_object must be a bool": lambda: model.run_with_cache(tokens, return_cache_object=two),
        "hook_point must be a HookPoint": lambda: model.check_and_add_hook("z", "z", lambda value, hook: None),
        "dir must be 'fwd'": lambda: model.list_hooks(dir=two),
        "past_kv_cache must be a KeyValueCache": lambda: model.padding_of(tokens, past_kv_cache={}),
        "prepend_bos must be a bool": lambda: model("text", prepend_bos=two),
        "loss_per_token must be a bool": lambda: model("text", return_type="loss", loss_per_token=two),
        "fwd_hooks must be a list": lambda: model.run_with_hooks("text", fwd_hooks=torch.tensor(1.0)),
        "axes must be text": lambda: HookPoint(two),
        "hooks are selected by": lambda: model.points(torch.tensor(1.0)),
        "hooks are selected by a name": lambda: model.points(int),
        "token ids are at most": lambda: model.to_string(torch.tensor([2**40])),
        "token ids are integers": lambda: model.to_string(torch.ones(2, dtype=torch.complex64)),
    }
    with unchecked_types():
        for told, call in calls.items():
            with pytest.raises((BadInput, UnknownHook), match=told):
                call()
    assert not [point for point in model.hook_points() if point.hooked]


def test_tokenizers_and_texts_that_are_none() -> None:
    model = fuzz.world().model
    with unchecked_types():
        for call in (
            lambda: corpus.tokenize_and_concatenate(["text"], 0.5),
            lambda: corpus.induction_loss(model, tokenizer=model, subseq_len=5),
            lambda: HookedTransformer(model.cfg, tokenizer=0.5),
            lambda: compat.IOIDataset(b"bytes"),
        ):
            with pytest.raises(BadInput, match="tokenizer must be a tokenizer of transformers"):
                call()
        for texts, told in (("one text", "got one string"), ([["a"]], "dataset must be"), ([{"no": 1}], "at 'text'")):
            with pytest.raises(BadInput, match=told):
                corpus.tokenize_and_concatenate(texts, model.tokenizer)


def test_what_is_no_model_checkpoint_or_number() -> None:
    model = fuzz.world().model
    with unchecked_types():
        with pytest.raises(BadInput, match="hf_model must be a model of transformers"):
            model.verify({"a": 1})
        with pytest.raises(BadInput, match="checkpoint must be a state dict"):
            HookedTransformer.from_state_dict(model)
        with pytest.raises(BadInput, match="joined with other scores"):
            fuzz.world().circuit.scores | torch.ones(2)
        with pytest.raises(ConfigError, match="print_every must be an int"):
            HookedTransformerTrainConfig(1, 2, print_every=...)
        with pytest.raises(ConfigError, match="d_head must be an int"):
            HookedTransformerConfig(n_layers=1, d_model=2, n_ctx=3, d_head=torch.ones(3))
