"""Checkpoints while a model is trained: at which steps, and that what is saved is the model as it was then."""

import itertools
from pathlib import Path
from typing import Any

import pytest
import torch
from transformers import TrainerControl, TrainerState, TrainingArguments
from transformers.trainer_callback import CallbackHandler

from interp_hooks.errors import BadInput
from interp_hooks.loading.keeping import CheckpointSaver, is_log_step, log_steps, trainer_callback
from interp_hooks.model import HookedTransformerTrainConfig, train
from interp_hooks.studies import NextTokenLoss, TrainingWatch, training_checkpoints
from tests.tiny import build, fresh_hf, hf_logits, our_logits, random_tokens


@pytest.mark.parametrize("per_doubling", [1, 2, 3, 5])
def test_log_steps_are_rounded_powers(per_doubling: int) -> None:
    steps = log_steps(1000, per_doubling)
    powers = {round(2 ** (k / per_doubling)) for k in range(10 * per_doubling)}
    assert steps == sorted({0, 1000} | {step for step in powers if step <= 1000})
    assert [step for step in range(1000) if is_log_step(step, per_doubling)] == steps[:-1]
    late = [step for step in steps[:-1] if step >= 64]
    ratios = [after / before for before, after in itertools.pairwise(late)]
    assert all(abs(ratio - 2 ** (1 / per_doubling)) < 0.03 for ratio in ratios)


def test_log_steps_of_a_short_training() -> None:
    assert log_steps(0) == [0]
    assert log_steps(1) == [0, 1]
    for wrong in ((-1, 2), (5, 0)):
        with pytest.raises(BadInput, match="at least"):
            log_steps(*wrong)


def test_each_step_of_train_sees_the_model_as_it_is(tmp_path: Path) -> None:
    """Step 0 is before the first update; the last is what train returns; numbers count as those of save_every."""
    model, data = build(d_vocab_out=23), list(random_tokens(12, 6, 23))
    begun, seen = {k: v.clone() for k, v in model.state_dict().items()}, []
    saver = CheckpointSaver(tmp_path / "run", at=[0, 2, 6])
    config = HookedTransformerTrainConfig(
        num_epochs=2, batch_size=4, save_every=2, save_dir=str(tmp_path / "own"), print_every=None
    )
    train(model, config, data, each_step=lambda step, now: (seen.append(step), saver(step, now)))
    assert seen == list(range(7))
    kept = {one.step: one.load() for one in training_checkpoints(tmp_path / "run")}
    assert list(kept) == [0, 2, 6]
    own = {one.step: one.load() for one in training_checkpoints(tmp_path / "own", cfg=model.cfg)}
    assert list(own) == [2, 4, 6]
    for one, other in ((kept[0].state_dict(), begun), (kept[6].state_dict(), model.state_dict())):
        assert all(torch.equal(one[name], other[name]) for name in other)
    assert all(torch.equal(kept[2].state_dict()[k], own[2].state_dict()[k]) for k in begun)


def test_another_training_is_not_overwritten(tmp_path: Path) -> None:
    CheckpointSaver(tmp_path)(0, build())
    with pytest.raises(BadInput, match="holds step0 of a training already"):
        CheckpointSaver(tmp_path)
    CheckpointSaver(tmp_path, overwrite=True)(0, build(seed=1))
    (one,) = training_checkpoints(tmp_path)
    assert torch.equal(one.load().W_E, build(seed=1).W_E)


def test_transformers_trainer_hands_over_the_steps_that_are_wanted(tmp_path: Path) -> None:
    """Through the handler that `Trainer` calls: converted as it is then, and nothing at other steps."""
    hf, saver = fresh_hf("gpt2"), CheckpointSaver(tmp_path / "run", at=[0, 2])
    optimizer = torch.optim.SGD(hf.parameters(), lr=0.1)
    args, state, control = TrainingArguments.__new__(TrainingArguments), TrainerState(), TrainerControl()
    tokens, logits = random_tokens(2, 5, hf.config.vocab_size), {}
    watch = TrainingWatch({"loss": (loss := NextTokenLoss(tokens=tokens))}, at=[2])
    callbacks = [trainer_callback(each) for each in (saver, watch)]
    handler: Any = CallbackHandler(callbacks, hf, None, optimizer, None)
    handler.on_train_begin(args, state, control)
    for step in range(4):
        logits[step] = hf_logits(hf, tokens)
        hf(tokens, labels=tokens).loss.backward()
        optimizer.step()
        state.global_step = step + 1
        handler.on_step_end(args, state, control)
    kept = {one.step: one.load() for one in training_checkpoints(tmp_path / "run")}
    assert list(kept) == [0, 2]
    for step, model in kept.items():
        torch.testing.assert_close(our_logits(model, tokens).to(logits[step]), logits[step], rtol=0, atol=2e-4)
    assert float((logits[0] - logits[2]).abs().max()) > 1e-2
    assert watch.watched().steps == [2]
    assert torch.equal(watch.watched()["loss"].values[0], loss(kept[2]).values)
    other: Any = CallbackHandler([trainer_callback(CheckpointSaver(tmp_path / "other", at=[2]))], hf, None, None, None)
    state.is_world_process_zero, state.global_step = False, 2
    other.on_step_end(args, state, control)
    assert not (tmp_path / "other").exists(), "another process does it"
