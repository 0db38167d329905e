"""Where a checkpoint is, told from its name: a bundled model, an alias, a folder or a hub id. Its config and tokenizer.

Checkpoints need not be listed: what is no bundled model, alias or folder is a hub id for `transformers`. The aliases
(`hub_names.json`) are the short names that people of the field type ("pythia-70m", "gpt2-small", "attn-only-1l").
"""

import json
import os
import re
from collections.abc import Mapping
from dataclasses import dataclass, field
from functools import cache, cached_property
from importlib.resources import files
from pathlib import Path
from typing import Any

from interp_hooks import without_collecting
from interp_hooks.errors import BadInput, CheckpointError, InterpHooksError, UnsupportedArchitecture, nearest
from interp_hooks.errors.arguments import told
from interp_hooks.loading.deferral import defer_activations
from interp_hooks.loading.files import check_counts
from interp_hooks.loading.gguf_files import SUFFIX, gguf_arguments
from interp_hooks.model.tokenization import has_vocabulary

CONFIG, WEIGHTS = "hooked_transformer.json", "hooked_transformer.safetensors"  # of a folder of save_pretrained
TOKENIZER_FILES = ("tokenizer.json", "tokenizer_config.json", "tokenizer.model", "vocab.json", "vocab.txt")
HUB_ARGUMENTS = (
    *("token", "cache_dir", "local_files_only", "trust_remote_code", "force_download", "subfolder"),
    "gguf_file",
)


KEPT = "checkpoints/"  # begins a revision that is a file instead: of a step of the training, in the same repository
NO_CODE = {"trust_remote_code": False}  # left out, transformers asks on the terminal, and a "y" runs the code


@dataclass(frozen=True, kw_only=True)
class NamedCheckpoint:
    """A checkpoint by the name that the user has for it; of `hf_kwargs` only those in `HUB_ARGUMENTS` are used here.

    Code that comes with a checkpoint is run only if `hf_kwargs` has `trust_remote_code=True`.
    """

    name: str
    revision: str | None = None
    hf_kwargs: Mapping[str, Any] = field(default_factory=dict)

    @property
    def arguments(self) -> dict[str, Any]:
        """What to call `from_pretrained` of transformers' models with, beside config and dtype."""
        gguf = {} if self.gguf_file is None else gguf_arguments(self.gguf_file)
        return {**NO_CODE, **gguf, **self.hf_kwargs, "revision": self.revision}

    @cached_property
    def gguf_file(self) -> str | None:
        """The name of the GGUF file, in the folder or on the hub, that holds the checkpoint; None for other formats."""
        path = Path(self.name).expanduser()
        return path.name if path.suffix == SUFFIX and path.is_file() else self.hf_kwargs.get("gguf_file")

    @cached_property
    def location(self) -> str:
        """What `transformers` can load; raises as `locate` does."""
        return locate(self.name, self.gguf_file)

    @property
    def _arguments(self) -> dict[str, Any]:
        return {key: value for key, value in self.arguments.items() if key in (*HUB_ARGUMENTS, "revision")}

    @property
    def settings(self) -> dict[str, Any]:
        """What is in config.json; raises what transformers raises where it cannot be had."""
        if isinstance(self._answer, Exception):
            raise self._answer
        return self._answer

    @cached_property
    @without_collecting()
    def _answer(self) -> dict[str, Any] | Exception:
        """What is in config.json, or why it cannot be had, so that a hub that does not answer is asked only once."""
        from transformers import PreTrainedConfig

        try:
            return PreTrainedConfig.get_config_dict(self.location, **self._arguments)[0]
        except Exception as error:  # files may hold anything, and so may be what is raised about them
            return error

    @without_collecting()
    def config(self) -> Any:
        """The HuggingFace config.

        Raises:
            CheckpointError: it cannot be found; UnsupportedArchitecture: it cannot be read.
            ImportError: it is in a GGUF file, for which packages are missing.
        """
        from transformers import AutoConfig

        arguments = self._arguments  # which raises the ImportError
        defer_activations()
        try:
            check_counts(self.settings, self.name)
            return AutoConfig.from_pretrained(self.location, **arguments)
        except InterpHooksError:
            raise
        except Exception as error:  # a config may hold anything, and so may be what is raised about it
            if Path(self.location).is_dir():
                raise UnsupportedArchitecture(
                    f"transformers cannot read the config in {self.location!r}: {error}"
                ) from error
            raise CheckpointError(f"cannot load {self.name!r}: {self._why_not(error)}") from error

    def _why_not(self, error: Exception) -> str:
        """Why there is no config for a name that is no folder and no bundled model, and what to do."""
        known = self.location in {*hub_names(), *(id.rpartition("/")[2] for id in hub_names())}
        here = f"no folder, no bundled model ({', '.join(bundled())})" + ("" if known else " and no alias")
        close = "" if known else nearest(self.name, [*bundled(), *aliases()])
        if _unreachable(error):
            return (
                f"it is {here}, and the hub cannot be reached to ask for {self.location!r}. Pass the folder of a "
                f"checkpoint that is on this machine, or try again with a network.{close}"
            )
        why = (str(error).splitlines() or [type(error).__name__])[0]
        return f"it is {here}, and the hub did not give a config for {self.location!r} ({why}).{close}"

    def generation_config(self, hf_config: Any) -> Any:
        """How transformers' `generate` goes on and ends: as the checkpoint says, or else as its config does."""
        from transformers import GenerationConfig

        try:
            return GenerationConfig.from_pretrained(self.location, **self._arguments)
        except OSError:
            return GenerationConfig.from_model_config(hf_config)

    def commit(self) -> str | None:
        """The hub's commit whose config was downloaded; None for a folder."""
        from transformers.utils.hub import extract_commit_hash

        if Path(self.location).is_dir():
            return None
        return extract_commit_hash(str(self.path_of(self.gguf_file or "config.json")), None)

    def files(self) -> list[str]:
        """The files of the checkpoint: in its folder, on the hub, or, if that cannot be asked, downloaded before."""
        folder = Path(self.location)
        if not folder.is_dir():
            from huggingface_hub import list_repo_files
            from huggingface_hub.errors import HfHubHTTPError, OfflineModeIsEnabled

            try:
                return sorted(list_repo_files(self.location, revision=self.revision, token=self.hf_kwargs.get("token")))
            except (OSError, HfHubHTTPError, OfflineModeIsEnabled):
                folder = self.path_of("config.json").parent
        return sorted(path.relative_to(folder).as_posix() for path in folder.rglob("*") if path.is_file())

    def path_of(self, file: str, download: bool = False) -> Path:
        """Where a file of the checkpoint lies, in its folder or downloaded (before, unless `download`)."""
        from transformers.utils.hub import cached_file

        if Path(self.location).is_dir():
            return Path(self.location) / str(self.hf_kwargs.get("subfolder", "")) / file
        where = {name: self.hf_kwargs[name] for name in ("cache_dir", "subfolder") if name in self.hf_kwargs}
        found = cached_file(self.location, file, revision=self.revision, local_files_only=not download, **where)
        return Path(str(found))

    def tokenizer(self) -> Any:
        """The checkpoint's tokenizer, or None if it comes without one.

        Raises:
            CheckpointError: there is one, but it cannot be read.
        """
        folder = Path(self.location)
        if self.gguf_file is None and folder.is_dir() and not has_tokenizer(folder):
            return None
        return read_tokenizer(self.name, self.location, **self._arguments)


def _unreachable(error: BaseException | None) -> bool:
    """Whether an error comes of a hub that did not answer, or was not to be asked."""
    from huggingface_hub.errors import LocalEntryNotFoundError, OfflineModeIsEnabled

    while error is not None:
        if isinstance(error, LocalEntryNotFoundError | OfflineModeIsEnabled):
            return True
        error = error.__cause__ or error.__context__
    return False


def as_name(name: Any) -> str:
    """What a user calls a checkpoint, a path too, as text.

    Raises:
        BadInput: something else, or nothing.
        CheckpointError: a path that no system could have.
    """
    if not isinstance(name, str | os.PathLike) or not (text := os.fspath(name)):
        raise BadInput(
            f"model_name must be a bundled name ({', '.join(bundled())}), a folder, an alias or a hub id, "
            f"got {told(name)}"
        )
    try:
        there = Path(text).expanduser().exists()
    except (OSError, ValueError) as error:
        raise CheckpointError(f"nothing can be called {text[:60]!r}... ({error.args[-1]})") from error
    if not (there or isinstance(name, str) or text in bundled()):
        raise CheckpointError(f"there is no folder {text!r}")
    return text


@cache
def hub_names() -> dict[str, list[str]]:
    """Well-known hub ids, each with its aliases."""
    return json.loads((files("interp_hooks.loading") / "hub_names.json").read_text(encoding="utf-8"))


@cache
def aliases() -> dict[str, str]:
    """The hub id of each alias in lower case; capitals make no difference."""
    return {alias.lower(): id for id, others in hub_names().items() for alias in others}


def has_tokenizer(folder: Path) -> bool:
    """Whether a folder holds any of the files that tokenizers are saved in."""
    return any((folder / name).exists() for name in TOKENIZER_FILES)


@without_collecting()
def read_tokenizer(name: str, location: str | None = None, **arguments: Any) -> Any:
    """The tokenizer of a folder or hub id, at `location` if `name` is only what the user calls it.

    Raises:
        CheckpointError: there is none, or it cannot be read.
    """
    from transformers import AutoTokenizer

    try:
        tokenizer = AutoTokenizer.from_pretrained(location or name, **(NO_CODE | arguments))
    except Exception as error:  # a broken file can make the tokenizers' own library raise anything
        why = f"{type(error).__name__}: {error}".splitlines()[0]
        raise CheckpointError(
            f"the tokenizer of {name!r} cannot be read ({why}); mend it, or pass another with tokenizer="
        ) from error
    if not has_vocabulary(tokenizer):
        raise CheckpointError(
            f"the tokenizer of {name!r} knows no word: the file of its vocabulary (tokenizer.json, tokenizer.model, "
            "vocab.json, ...) is missing; put it there, or pass another tokenizer with tokenizer="
        )
    return tokenizer


def bundled() -> dict[str, Path]:
    """The folders of the checkpoints that come with the package, by name."""
    root = Path(str(files("interp_hooks.loading"))) / "pretrained"
    return {folder.name: folder for folder in sorted(root.iterdir()) if folder.is_dir()}


def folder_of(name: str) -> Path:
    """The folder of a bundled model, or the path that `name` is otherwise, whether or not a folder is there."""
    return bundled().get(name, Path(name).expanduser())


def is_native(name: str) -> bool:
    """Whether `name` is a folder that `save_pretrained` wrote, or a bundled model in such a folder."""
    folder = folder_of(name)
    return (folder / CONFIG).is_file() and not (folder / "config.json").exists()


def kept_steps(name: str) -> list[int]:
    """The training steps whose models were saved in the folder of this one as step0, step500, ...; lowest first."""
    inside = [item.name for item in folder_of(name).iterdir()] if is_native(name) else []
    steps = [int(inner.removeprefix("step")) for inner in inside if re.fullmatch(r"step\d+", inner)]
    return sorted(step for step in steps if is_native(str(folder_of(name) / f"step{step}")))


def locate(name: str, gguf_file: str | None = None) -> str:
    """What `transformers` can load for a bundled name, an alias, a folder or a hub id; the folder of a GGUF file.

    Raises:
        CheckpointError: a folder without config.json or that GGUF file, or a path that does not exist.
    """
    if name in bundled():
        return str(bundled()[name])
    if name.lower() in aliases():
        return aliases()[name.lower()]
    path = Path(name).expanduser()
    if path.is_file() and path.suffix == SUFFIX:
        return str(path.parent)
    if path.is_dir() and gguf_file is not None:
        if not (path / gguf_file).is_file():
            files = ", ".join(sorted(item.name for item in path.glob(f"*{SUFFIX}"))) or "none"
            raise CheckpointError(f"the folder {name!r} has no file {gguf_file!r}; its GGUF files: {files}")
        return str(path)
    if path.is_dir():
        if not (path / "config.json").exists():
            if (path / WEIGHTS).exists():
                raise CheckpointError(f"{name!r} was not saved to the end, so it has no {CONFIG}: save it again")
            if (path / "adapter_config.json").exists():
                raise CheckpointError(
                    f"the folder {name!r} holds an adapter, not a model: pass merge_adapters=True, or load both with "
                    "peft, and pass hf_model=peft_model.merge_and_unload()"
                )
            if found := sorted(path.glob(f"*{SUFFIX}")):
                files = ", ".join(file.name for file in found)
                raise CheckpointError(
                    f"the folder {name!r} holds GGUF files ({files}): pass gguf_file={found[0].name!r}, or its path"
                )
            inside = ", ".join(sorted(item.name for item in path.iterdir())[:8])
            found = f"only {inside}" if inside else "for it is empty"
            raise CheckpointError(
                f"the folder {name!r} is no HuggingFace checkpoint, which is config.json and weights: no config.json, "
                f"{found}"
            )
        return str(path)
    if path.is_file():
        raise CheckpointError(
            f"{name!r} is a file; pass the folder that holds config.json and the weights, or a {SUFFIX} file"
        )
    if path.suffix == SUFFIX:
        raise CheckpointError(f"there is no file {name!r}")
    if path.is_absolute() or name.startswith((".", "~")) or name.count("/") > 1:
        raise CheckpointError(f"there is no folder {name!r}")
    return next((id for id in hub_names() if id.lower() == name.lower()), name)
