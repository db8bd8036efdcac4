"""Hooks of the documentation site: pages that stand outside of docs/, and one API page a room.

mkdocs calls these functions. README, CHANGELOG, SECURITY, CONTRIBUTING and benchmarks/*.md are
pages where they stand, so that nothing is written twice; links between them work on the site as
they do in the repository.
"""

from __future__ import annotations

import ast
import posixpath
import re
from pathlib import Path
from typing import Any

import griffe
from mkdocs.structure.files import File, Files

ROOT = Path(__file__).resolve().parents[1]
OUTSIDE = ("README.md", "CHANGELOG.md", "SECURITY.md", "CONTRIBUTING.md", "calibration/README.md")
"""Pages of the repository's root that the site has too."""
_WORKER, _WORKER_ELSEWHERE = "site/iframe-worker.js", "https://unpkg.com/iframe-worker/shim"
_ROLE = re.compile(r":(?:func|class|meth|mod|attr|data|exc):`([^`]*)`")
_LINK = re.compile(r"(\]\()(?!https?:|mailto:|#)([^)\s#]+)((?:#[^)\s]*)?\))")


def rooms() -> list[str]:
    """Return the packages directly below physadv that hold public code, by name."""
    found = sorted(path.parent.name for path in ROOT.glob("physadv/*/__init__.py"))
    return [name for name in found if not name.startswith("_")]


class PlainDocstrings(griffe.Extension):
    """Docstrings as the site's parser reads them: "Example:" a section, Sphinx's roles plain."""

    def on_object(self, *, obj: griffe.Object, **_: Any) -> None:
        """Change the docstring of ``obj``, once it has been read."""
        if obj.docstring is not None:
            text = re.sub(r"(?m)^Example:$", "Examples:", obj.docstring.value)
            obj.docstring.value = _ROLE.sub(lambda m: f"`{m[1].lstrip('~')}`", text)


def on_config(config: Any, **_: Any) -> Any:
    """List the rooms and the measured pages below their headings."""
    groups = {
        "api/index.md": [f"api/{room}.md" for room in rooms()],
        "benchmarks/index.md": [
            f"benchmarks/{p.name}" for p in sorted(ROOT.glob("benchmarks/*.md"))
        ],
    }

    def expanded(entries: list[Any]) -> list[Any]:
        found: list[Any] = []
        for entry in entries:
            ((title, target),) = entry.items()
            if isinstance(target, list):
                found.append({title: expanded(target)})
            else:
                below = groups.get(target)
                found.append({title: [target, *below] if below else target})
        return found

    config.nav = expanded(config.nav)
    return config


def on_files(files: Files, config: Any, **_: Any) -> Files:
    """Add the pages outside of docs/, the files that pages link to, and the API pages."""
    pages = [ROOT / name for name in OUTSIDE] + sorted(ROOT.glob("benchmarks/*.md"))
    pages = [page for page in pages if page.is_file()]
    _add(files, config, *pages)

    sources = [*pages, *sorted((ROOT / "docs").glob("**/*.md"))]
    linked = {target for page in sources for target in _targets(page)}
    _add(files, config, *sorted(path for path in linked if path.is_file()))

    for room in rooms():
        files.append(File.generated(config, f"api/{room}.md", content=_room_page(room)))
    files.append(File.generated(config, "api/index.md", content=_rooms_page()))
    files.append(File.generated(config, "benchmarks/index.md", content=_measured_page()))
    return files


def on_page_markdown(markdown: str, page: Any, **_: Any) -> str:
    """Point links at the places that files have on the site; drop those to folders of code."""
    here = page.file.src_uri

    def replaced(match: re.Match[str]) -> str:
        target = _repository_path(here, match[2])
        on_site = target.removeprefix("docs/")
        return match[1] + posixpath.relpath(on_site, posixpath.dirname(here) or ".") + match[3]

    return _LINK.sub(replaced, markdown)


def on_post_page(output: str, page: Any, **_: Any) -> str:
    """Take the script that runs the search of a folder from the site, not from the network."""
    own = posixpath.relpath(_WORKER, posixpath.dirname(page.file.dest_uri) or ".")
    return output.replace(_WORKER_ELSEWHERE, own)


def on_post_template(output_content: str, **_: Any) -> str:
    """Do the same on the page of an address that leads nowhere."""
    return output_content.replace(_WORKER_ELSEWHERE, f"/{_WORKER}")


def _add(files: Files, config: Any, *paths: Path) -> None:
    """Add files of the repository at their paths, those of docs/ apart, which mkdocs has."""
    for path in paths:
        name = path.relative_to(ROOT).as_posix()
        if not name.startswith("docs/") and files.get_file_from_path(name) is None:
            files.append(File.generated(config, name, abs_src_path=str(path)))


def _repository_path(here: str, link: str) -> str:
    """Return the path in the repository of a link on the page at ``here`` on the site."""
    in_docs = (ROOT / "docs" / here).is_file()
    start = posixpath.dirname(f"docs/{here}" if in_docs else here)
    return posixpath.normpath(posixpath.join(start, link))


def _targets(page: Path) -> list[Path]:
    """Return the files of the repository that a page links to."""
    text = page.read_text(encoding="utf-8")
    found = [(page.parent / match[2]).resolve() for match in _LINK.finditer(text)]
    return [path for path in found if path.is_relative_to(ROOT)]


def _room_page(room: str) -> str:
    """Return the API page of a room: its package, then each public module."""
    package = ROOT / "physadv" / room
    modules = sorted(
        ".".join(path.relative_to(ROOT).with_suffix("").parts)
        for path in package.glob("**/*.py")
        if not any(part.startswith("_") for part in path.relative_to(package).parts)
    )
    whole = "    options: {members: false, show_root_heading: false, show_root_toc_entry: false}"
    parts = [f"# physadv.{room}", f"::: physadv.{room}\n{whole}"]
    return "\n\n".join([*parts, *(f"::: {module}" for module in modules)]) + "\n"


def _code(package: Path) -> str:
    return (package / "__init__.py").read_text(encoding="utf-8")


def _rooms_page() -> str:
    """Return the list of the rooms, each with the first sentence of its package."""
    lines = ["# Rooms", "", "Every folder below `physadv/` is one station; imports run one way."]
    lines += ["", "| Room | What lives there |", "|---|---|"]
    for room in rooms():
        words = ast.get_docstring(ast.parse(_code(ROOT / "physadv" / room))) or ""
        first = " ".join(words.split("\n\n")[0].split())
        lines.append(f"| [physadv.{room}]({room}.md) | {first} |")
    return "\n".join(lines) + "\n"


def _measured_page() -> str:
    """Return the list of the pages of benchmarks/ by their headings."""
    lines = ["# Measured", "", "Each page names its commands, n and intervals; rows stand beside."]
    lines.append("")
    for page in sorted(ROOT.glob("benchmarks/*.md")):
        heading = page.read_text(encoding="utf-8").split("\n", 1)[0].removeprefix("# ")
        lines.append(f"- [{heading}]({page.name})")
    return "\n".join(lines) + "\n"
