"""Training a model on next tokens: a loop short enough to read, with the settings that people expect.

For anything else, write a loop in plain torch: `model(tokens, return_type="loss")` is a loss like any other.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence, Sized
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any, Literal

import torch
from torch.utils.data import DataLoader, Dataset

from interp_hooks.errors import BadInput, ConfigError
from interp_hooks.errors.arguments import Elsewhere, checked, told
from interp_hooks.model.field_types import check_fields
from interp_hooks.model.progress import tqdm
from interp_hooks.model.transformer import HookedTransformer

OptimizerName = Literal["Adam", "AdamW", "SGD"]


@dataclass(frozen=True)
class HookedTransformerTrainConfig:
    """The settings of a training run.

    `seed` decides the order of the data, `max_steps` bounds every epoch. The learning rate grows linearly over
    `warmup_steps`, then is constant; `momentum` is for SGD. Every `save_every` steps the state dict is written to
    `save_dir`/model_{step}.pt, where steps are counted over all epochs, from 1. Every `print_every` steps the loss is
    printed. `device` moves the model first.

    Raises:
        ConfigError: numbers out of range, an unknown optimizer, or one of `save_every` and `save_dir` alone.
    """

    num_epochs: int
    batch_size: int
    lr: float = 1e-3
    seed: int = 0
    momentum: float = 0.0
    max_grad_norm: float | None = None
    weight_decay: float | None = None
    optimizer_name: OptimizerName = "Adam"
    device: str | torch.device | None = None
    warmup_steps: int = 0
    save_every: int | None = None
    save_dir: str | Path | None = None
    wandb: bool = False
    wandb_project_name: str | None = None
    print_every: int | None = 50
    max_steps: int | None = None

    def __post_init__(self) -> None:
        check_fields(self)
        for name in ("num_epochs", "batch_size", "save_every", "print_every", "max_steps"):
            value = getattr(self, name)
            if value is not None and value < 1:
                raise ConfigError(f"{name} must be at least 1, got {value}")
        if (self.save_every is None) != (self.save_dir is None):
            raise ConfigError("save_every and save_dir belong together: give both or neither")
        if self.momentum and self.optimizer_name != "SGD":
            raise ConfigError(f"momentum is SGD's, {self.optimizer_name} does not read it")


def _optimizer(model: HookedTransformer, config: HookedTransformerTrainConfig) -> torch.optim.Optimizer:
    """The optimizer that the config names; Adam with weight decay is AdamW."""
    decay = config.weight_decay or 0.0
    if config.optimizer_name == "SGD":
        return torch.optim.SGD(model.parameters(), lr=config.lr, weight_decay=decay, momentum=config.momentum)
    if config.optimizer_name == "AdamW" and config.weight_decay is None:
        return torch.optim.AdamW(model.parameters(), lr=config.lr)
    return (torch.optim.AdamW if decay else torch.optim.Adam)(model.parameters(), lr=config.lr, weight_decay=decay)


@checked
def train(
    model: HookedTransformer,
    config: HookedTransformerTrainConfig,
    dataset: Annotated[Dataset | Sequence[Any], Elsewhere()],
    each_step: Callable[[int, HookedTransformer], object] | None = None,
) -> HookedTransformer:
    """Train a model, in place, on items {"tokens": [pos]} of one length, or on bare rows of tokens, and return it.

    Padding does not count: what an item's "attention_mask" says, or without one what the model finds. `each_step` is
    called with 0 and the model before the first step, and with the number of each step, counted as `save_every` does,
    and the model after it: `CheckpointSaver` of `loading.keeping` and `TrainingWatch` of `studies` are such functions.

    Raises:
        BadInput: no data set, an empty one, or tokens that may be padding or text.
    """
    data: Any = dataset
    if not isinstance(dataset, Sized) or isinstance(dataset, Mapping | str):
        raise BadInput(f"dataset must be rows of tokens, or items that hold them, got {told(dataset)}")
    if not len(data):
        raise BadInput("the data set is empty")
    if config.device is not None:
        model.to(config.device)
    optimizer = _optimizer(model, config)
    order = torch.Generator().manual_seed(config.seed)
    batches = DataLoader(data, batch_size=config.batch_size, shuffle=True, generator=order)
    log = _log(config)
    was_training = model.training
    model.train()
    step = 0
    if each_step is not None:
        each_step(step, model)
    for epoch in range(1, config.num_epochs + 1):
        for in_epoch, batch in enumerate(tqdm(batches, desc=f"epoch {epoch}", disable=config.print_every is None)):
            if in_epoch == config.max_steps:
                break
            step += 1
            loss = _step(model, optimizer, batch, config, step)
            if config.print_every is not None and step % config.print_every == 0:
                tqdm.write(f"epoch {epoch} step {step} loss {loss:.4f}")
            if config.save_every is not None and step % config.save_every == 0:
                Path(str(config.save_dir)).mkdir(parents=True, exist_ok=True)
                torch.save(model.state_dict(), Path(str(config.save_dir)) / f"model_{step}.pt")
            if each_step is not None:
                each_step(step, model)
            if log is not None:
                log({"train_loss": loss, "step": step, "epoch": epoch})
    return model.train(was_training)


def _step(
    model: HookedTransformer,
    optimizer: torch.optim.Optimizer,
    batch: Any,
    config: HookedTransformerTrainConfig,
    step: int,
) -> float:
    for group in optimizer.param_groups:
        group["lr"] = config.lr * min(1.0, step / max(config.warmup_steps, 1))
    given = batch if isinstance(batch, Mapping) else {"tokens": batch}
    loss = model(given["tokens"], return_type="loss", attention_mask=given.get("attention_mask"))
    optimizer.zero_grad()
    loss.backward()
    if config.max_grad_norm is not None:
        torch.nn.utils.clip_grad_norm_(model.parameters(), config.max_grad_norm)
    optimizer.step()
    return loss.item()


def _log(config: HookedTransformerTrainConfig) -> Any:
    """The function that logs a step to Weights & Biases, if the config asks for it."""
    if not config.wandb:
        return None
    try:
        import wandb  # pyright: ignore[reportMissingImports]
    except ImportError as error:
        raise ImportError("wandb=True needs Weights & Biases: pip install wandb") from error
    return wandb.init(project=config.wandb_project_name, config=vars(config)).log
