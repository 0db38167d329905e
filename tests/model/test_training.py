"""The training loop against the same steps written out."""

import sys
import types
from pathlib import Path
from typing import Any

import pytest
import torch
from torch.utils.data import DataLoader

from interp_hooks import HookedTransformer
from interp_hooks.corpus.texts import TokenRows
from interp_hooks.errors import BadInput, ConfigError
from interp_hooks.model.training import HookedTransformerTrainConfig, train
from tests.tiny import build, distance, random_tokens, unchecked_types

ROWS = random_tokens(10, 6, 19)
OPTIMIZERS = {
    "Adam": (dict(), torch.optim.Adam, dict()),
    "Adam-decay": (dict(weight_decay=0.1), torch.optim.AdamW, dict(weight_decay=0.1)),
    "AdamW": (dict(optimizer_name="AdamW"), torch.optim.AdamW, dict()),
    "SGD": (dict(optimizer_name="SGD", momentum=0.9), torch.optim.SGD, dict(momentum=0.9)),
}


def by_hand(kind: Any, options: dict[str, Any], lrs: list[float], clip: float | None = None) -> HookedTransformer:
    model = build()
    optimizer = kind(model.parameters(), lr=lrs[0], **options)
    order = torch.Generator().manual_seed(7)
    loader = DataLoader(TokenRows(ROWS), batch_size=4, shuffle=True, generator=order)
    batches = [batch["tokens"] for _ in range(2) for batch in loader]
    for tokens, lr in zip(batches, lrs, strict=True):
        optimizer.param_groups[0]["lr"] = lr
        optimizer.zero_grad()
        log_probs = model(tokens)[:, :-1].log_softmax(-1)
        (-log_probs.gather(2, tokens[:, 1:, None]).mean()).backward()
        if clip is not None:
            torch.nn.utils.clip_grad_norm_(model.parameters(), clip)
        optimizer.step()
    return model


def same(ours: HookedTransformer, theirs: HookedTransformer) -> None:
    for (name, weight), other in zip(ours.named_parameters(), theirs.parameters(), strict=True):
        assert distance(weight, other) < 1e-9, name


@pytest.mark.parametrize("name", OPTIMIZERS)
def test_optimizers(name: str) -> None:
    settings, kind, options = OPTIMIZERS[name]
    model = build()
    config = HookedTransformerTrainConfig(2, 4, lr=1e-3, seed=7, print_every=None, **settings)
    state = torch.get_rng_state()
    assert train(model, config, TokenRows(ROWS)) is model
    assert torch.equal(torch.get_rng_state(), state), "the global generator is left alone"
    same(model, by_hand(kind, options, [1e-3] * 6))
    assert not model.training


def test_warmup_and_clipping() -> None:
    model = build()
    settings: dict[str, Any] = dict(optimizer_name="SGD", warmup_steps=4, max_grad_norm=0.5)
    config = HookedTransformerTrainConfig(num_epochs=2, batch_size=4, lr=0.1, seed=7, print_every=None, **settings)
    train(model, config, [{"tokens": row} for row in ROWS])
    same(model, by_hand(torch.optim.SGD, {}, [0.025, 0.05, 0.075, 0.1, 0.1, 0.1], clip=0.5))


def test_steps_are_bounded_saved_and_printed(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    folder = tmp_path / "made"
    settings: dict[str, Any] = dict(save_every=2, save_dir=folder, print_every=2, max_steps=2)
    model = build()
    read: list[int] = []
    model.register_forward_pre_hook(lambda _, arguments: read.append(len(arguments[0])))
    train(model, HookedTransformerTrainConfig(num_epochs=2, batch_size=4, **settings), list(ROWS))
    assert read == [4, 4, 4, 4], "two steps in each epoch"
    assert sorted(path.name for path in folder.iterdir()) == ["model_2.pt", "model_4.pt"]
    saved = torch.load(folder / "model_4.pt", weights_only=True)
    assert all(torch.equal(saved[name], weight) for name, weight in model.state_dict().items())
    printed = [line for line in capsys.readouterr().out.splitlines() if "loss" in line]
    assert [line.split()[:4] for line in printed] == [
        ["epoch", "1", "step", "2"],
        ["epoch", "2", "step", "4"],
    ]


def test_weights_and_biases_are_told(monkeypatch: pytest.MonkeyPatch) -> None:
    told: list[Any] = []

    def init(project: str | None, config: dict[str, Any]) -> Any:
        told.append((project, config["lr"]))
        return types.SimpleNamespace(log=told.append)

    monkeypatch.setitem(sys.modules, "wandb", types.SimpleNamespace(init=init))
    settings: dict[str, Any] = dict(wandb=True, wandb_project_name="mine", print_every=None)
    train(build(), HookedTransformerTrainConfig(1, 5, **settings), TokenRows(ROWS))
    assert told[0] == ("mine", 1e-3)
    assert [entry["step"] for entry in told[1:]] == [1, 2]
    monkeypatch.setitem(sys.modules, "wandb", None)
    with pytest.raises(ImportError, match="pip install wandb"):
        train(build(), HookedTransformerTrainConfig(1, 5, **settings), TokenRows(ROWS))


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"num_epochs": 0}, "num_epochs must be at least 1"),
        ({"optimizer_name": "adam"}, "must be 'Adam', 'AdamW' or 'SGD', got 'adam'"),
        ({"save_every": 2}, "belong together"),
        ({"momentum": 0.9}, "momentum is SGD's"),
    ],
)
def test_settings_that_contradict_each_other(settings: dict[str, Any], message: str) -> None:
    whole: dict[str, Any] = dict(num_epochs=1, batch_size=2) | settings
    with unchecked_types(), pytest.raises(ConfigError, match=message):
        HookedTransformerTrainConfig(**whole)


def test_no_data() -> None:
    with pytest.raises(BadInput, match="empty"):
        train(build(), HookedTransformerTrainConfig(1, 2), TokenRows(ROWS[:0]))
