"""What the manual takes from the package when it is built: a page of reference for each room, and links to them.

mkdocs calls these functions by their names (`hooks:` in mkdocs.yml). Pages of reference are made of the docstrings of
public names, and are on no disk. Elsewhere in the manual, a dotted name in backticks,
`interp_hooks.studies.logit_lens`, becomes a link to its docstring, and an unknown one stops the build; a file of the
repository, `notebooks/exploring_ioi.ipynb`, becomes a link to where it is read.
"""

import re
import sys
from importlib import import_module
from typing import Any

from mkdocs.config.defaults import MkDocsConfig
from mkdocs.exceptions import PluginError
from mkdocs.structure.files import File, Files
from mkdocs.structure.pages import Page

import interp_hooks

ROOMS = (
    *("interventions", "experiments", "tasks", "studies", "circuits", "dictionaries", "ground_truth", "corpus"),
    *("model", "hooks", "views", "compat", "errors"),
)
INHERITED = "\n    options:\n      inherited_members: true"  # of classes that are made of several, none of them public
READ_AT = "https://github.com/interp-hooks/interp_hooks/blob/main"
FILE = re.compile(r"(?<![`\[])`((?:tests|benchmarks|demos|notebooks|training)/[\w/.-]+\w)(::\w+)?`(?!`)")
DOTTED = re.compile(r"(?<!`)`(interp_hooks(?:\.\w+)+)`(?!`)")


def home_of(path: str) -> str:
    """The full name under which a public name is defined: "interp_hooks.patch" is in `experiments.patching`.

    Raises:
        PluginError: there is no such name.
    """
    module, _, name = path.rpartition(".")
    try:
        value: Any = getattr(import_module(module), name)
    except (ImportError, AttributeError) as error:
        raise PluginError(f"the manual names {path}, which there is not: {error}") from error
    if hasattr(value, "__qualname__"):
        return f"{value.__module__}.{value.__qualname__}"
    defined = (f"{one}.{name}" for one, loaded in list(sys.modules.items()) if one.startswith(f"{module}."))
    return next(one for one in defined if name in vars(sys.modules[one.rpartition(".")[0]]))


def names_of(room: str) -> list[str]:
    """The public names of a room, as they are written: those of the package's root too where they live there."""
    package = f"interp_hooks.{room}"
    listed = getattr(import_module(package), "__all__", None)
    if listed is None:  # the errors, which all stand in one module
        errors = vars(import_module(package)).items()
        listed = [name for name, value in errors if isinstance(value, type) and value.__module__ == package]
    rooted = [name for name in interp_hooks.__all__ if home_of(f"interp_hooks.{name}").startswith(f"{package}.")]
    return sorted({*rooted, *listed}, key=str.lower)


def page_of(room: str, taken: set[str]) -> str:
    """The page of one room; each docstring stands once, in the first room that lists it."""
    about = (import_module(f"interp_hooks.{room}").__doc__ or "").strip().partition("\n\n")[0]
    lines = [f"# {room}", about, f"`from interp_hooks.{room} import ...`"]
    for name in names_of(room):
        home = home_of(f"interp_hooks.{room}.{name}" if room != "errors" else f"interp_hooks.errors.{name}")
        if home not in taken:
            taken.add(home)
            at_root = "\n\n(also `from interp_hooks import " + name + "`)" if name in interp_hooks.__all__ else ""
            lines.append(f"::: {home}{INHERITED if room in ('model', 'hooks') else ''}{at_root}")
    return "\n\n".join(lines) + "\n"


def on_files(files: Files, config: MkDocsConfig) -> Files:
    """Add a page for each room, and one that lists them."""
    index = ["# Reference", "Every public name, by the room of the package that it lives in."]
    taken: set[str] = set()
    rows = ["| room | |", "|---|---|"]
    for room in ROOMS:
        files.append(File.generated(config, f"reference/{room}.md", content=page_of(room, taken)))
        about = (import_module(f"interp_hooks.{room}").__doc__ or "").strip().partition("\n\n")[0].replace("\n", " ")
        rows.append(f"| [{room}]({room}.md) | {about} |")
    index.append("\n".join(rows))
    files.append(File.generated(config, "reference/index.md", content="\n\n".join(index) + "\n"))
    return files


def on_config(config: MkDocsConfig) -> MkDocsConfig:
    """Put the rooms into the navigation, below the page that lists them."""
    assert config.nav is not None
    for section in config.nav:
        if "Reference" in section:
            section["Reference"] += [{room: f"reference/{room}.md"} for room in ROOMS]
    return config


def on_page_markdown(markdown: str, page: Page, config: MkDocsConfig, files: Files) -> str:
    """Make links of dotted names and of files."""
    if page.file.src_uri.startswith("reference/") or page.file.src_uri in ("surface.md", "models.md"):
        return markdown
    up = "../" * page.file.src_uri.count("/")

    def link(found: re.Match[str]) -> str:
        name = found[1].rpartition(".")[2]
        return f"[`{name}`]({up}reference/{name}.md)" if name in ROOMS else f"[`{name}`][{home_of(found[1])}]"

    return FILE.sub(rf"[`\1\2`]({READ_AT}/\1)", DOTTED.sub(link, markdown))
