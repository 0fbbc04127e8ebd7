"""Build the documentation: Markdown to static pages in ``site/``. Needs no network, and fails on a broken link.

A page is any file of ``docs/``, and any Markdown file of the repository that a page links to. Other linked files
are copied.
"""

from __future__ import annotations

import html
import re
import shutil
import sys
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from urllib.parse import unquote

from markdown_it import MarkdownIt
from markdown_it.token import Token

__all__ = ["Fence", "build", "fences", "headings", "pages", "problems"]

ROOT = Path(__file__).resolve().parents[1]
DOCS = ROOT / "docs"
HOME = DOCS / "index.md"
SITE = ROOT / "site"

_EXTERNAL = re.compile(r"[a-z][a-z0-9+.-]*:|//", re.IGNORECASE)


@dataclass(frozen=True)
class Fence:
    """A block of code: the words after the backticks, its text, and the line it starts on."""

    info: str
    text: str
    line: int


@dataclass(frozen=True)
class Link:
    """A relative link: what is written, the file it means, and the anchor in it."""

    href: str
    file: Path
    anchor: str
    line: int


def parse(source: Path) -> list[Token]:
    """Return the tokens of a Markdown file."""
    return MarkdownIt("commonmark").enable("table").parse(source.read_text(encoding="utf-8"))


def fences(source: Path) -> list[Fence]:
    """Return the blocks of code of a Markdown file."""
    return [
        Fence(token.info.strip(), token.content, (token.map or [0])[0] + 1)
        for token in parse(source)
        if token.type == "fence"
    ]


def headings(source: Path) -> dict[str, str]:
    """Return the headings of a Markdown file by anchor."""
    return {anchor: text for anchor, text, _ in _headings(parse(source))}


def _headings(tokens: list[Token]) -> Iterator[tuple[str, str, Token]]:
    """Yield the anchor, the text and the opening token of each heading; anchors are those that GitHub makes."""
    seen: dict[str, int] = {}
    for token, inside in zip(tokens, tokens[1:], strict=False):
        if token.type == "heading_open":
            text = "".join(child.content for child in inside.children or ())
            slug = re.sub(r"[^\w\- ]", "", text.lower()).strip().replace(" ", "-")
            seen[slug] = seen.get(slug, -1) + 1
            yield f"{slug}-{seen[slug]}" if seen[slug] else slug, text, token


def _links(source: Path, tokens: list[Token]) -> Iterator[tuple[Token, Link]]:
    """Yield the relative links of a page, each with the token that holds it."""
    for token in tokens:
        line = (token.map or [0])[0] + 1
        for child in token.children or ():
            href = str(child.attrs.get("href") or child.attrs.get("src") or "")
            if href and not _EXTERNAL.match(href):
                path, _, anchor = unquote(href).partition("#")
                yield child, Link(href, (source.parent / path).resolve() if path else source, anchor, line)


def problems(source: Path) -> list[str]:
    """Return a line for each broken relative link of a Markdown file: no such file, or no such heading in it."""
    found = []
    for _, link in _links(source, parse(source)):
        where = f"{source.relative_to(ROOT)}:{link.line}: {link.href}"
        if not link.file.is_file():
            found.append(f"{where}: there is no such file")
        elif not link.file.is_relative_to(ROOT):
            found.append(f"{where}: leads out of the repository")
        elif link.anchor and link.file.suffix == ".md" and link.anchor not in headings(link.file):
            found.append(f"{where}: there is no such heading")
    return found


def pages() -> list[Path]:
    """Return the pages: the home page, the other files of ``docs/``, and the Markdown files that these link to."""
    known = [HOME, *sorted(path for path in DOCS.glob("*.md") if path != HOME)]
    for page in known:  # grows while it is walked
        linked = {link.file for _, link in _links(page, parse(page))}
        known += sorted(file for file in linked if file.suffix == ".md" and file.is_file() and file not in known)
    return known


def build(site: Path = SITE) -> list[str]:
    """Write all pages into ``site`` and return the broken links; with any, nothing is written."""
    known = pages()
    broken = [problem for page in known for problem in problems(page)]
    if broken:
        return broken
    site.mkdir(parents=True, exist_ok=True)
    for page in known:
        (site / _target(page)).write_text(_render(page, known, site), encoding="utf-8")
    return []


def _target(page: Path) -> str:
    """Return the file name of a page: its own for those in ``docs/``, else its path with dashes."""
    path = page.relative_to(DOCS if page.parent == DOCS else ROOT)
    return "-".join(path.with_suffix(".html").parts)


def _render(page: Path, known: list[Path], site: Path) -> str:
    tokens = parse(page)
    titles = []
    for anchor, text, token in _headings(tokens):
        token.attrs["id"] = anchor
        titles.append(text)
    for token, link in _links(page, tokens):
        token.attrs["href" if "href" in token.attrs else "src"] = _address(link, known, site)
    markdown = MarkdownIt("commonmark").enable("table")
    return _PAGE.format(
        title=html.escape(titles[0] if titles else page.stem),
        navigation=_navigation(page, known),
        body=markdown.renderer.render(tokens, markdown.options, {}),
    )


def _address(link: Link, known: list[Path], site: Path) -> str:
    """Return where a link leads within the site; a file that is no page is copied there."""
    anchor = f"#{link.anchor}" if link.anchor else ""
    if link.file in known:
        return _target(link.file) + anchor
    copy = site / "files" / link.file.relative_to(ROOT)
    copy.parent.mkdir(parents=True, exist_ok=True)
    shutil.copyfile(link.file, copy)
    return copy.relative_to(site).as_posix()


def _navigation(page: Path, known: list[Path]) -> str:
    listed = [other for other in known if other.parent == DOCS]
    items = []
    for other in listed:
        title = html.escape(next(iter(headings(other).values()), other.stem))
        current = ' aria-current="page"' if other == page else ""
        items.append(f'<li><a href="{_target(other)}"{current}>{title}</a></li>')
    return "".join(items)


_PAGE = """<!doctype html>
<html lang="en">
<head>
<meta charset="utf-8">
<meta name="viewport" content="width=device-width, initial-scale=1">
<title>{title} - qcore</title>
<style>
:root {{ color-scheme: light dark; --line: light-dark(#d8dce2, #3a4048); --soft: light-dark(#f4f6f8, #1d2126);
  --text: light-dark(#1c2127, #e4e7eb); --back: light-dark(#ffffff, #14171a); --link: light-dark(#0b57b0, #7db8ff); }}
body {{ margin: 0; font: 16px/1.6 system-ui, sans-serif; color: var(--text); background: var(--back); display: flex; }}
nav {{ flex: 0 0 13rem; padding: 1.5rem 1rem; border-right: 1px solid var(--line); min-height: 100vh;
  box-sizing: border-box; }}
nav ul {{ list-style: none; margin: 0; padding: 0; position: sticky; top: 1.5rem; }}
nav a {{ display: block; padding: .2rem .5rem; text-decoration: none; border-radius: .25rem; }}
nav a[aria-current] {{ background: var(--soft); font-weight: 600; }}
main {{ flex: 1; min-width: 0; max-width: 54rem; padding: 1rem 2rem 4rem; }}
a {{ color: var(--link); }}
pre {{ background: var(--soft); padding: .8rem 1rem; overflow-x: auto; border-radius: .3rem; line-height: 1.45; }}
code {{ font: .9em ui-monospace, monospace; background: var(--soft); padding: .1em .25em; border-radius: .2rem; }}
pre code {{ padding: 0; background: none; }}
table {{ border-collapse: collapse; display: block; overflow-x: auto; }}
th, td {{ border: 1px solid var(--line); padding: .3rem .6rem; text-align: left; vertical-align: top; }}
th {{ background: var(--soft); }}
@media (max-width: 48rem) {{
  body {{ display: block; }}
  nav {{ min-height: 0; border-right: 0; border-bottom: 1px solid var(--line); }}
  main {{ padding: 1rem; }}
}}
</style>
</head>
<body>
<nav><ul>{navigation}</ul></nav>
<main>
{body}</main>
</body>
</html>
"""


def main() -> int:
    """Build the site; return the exit code."""
    broken = build()
    if broken:
        sys.stderr.write("".join(f"{line}\n" for line in broken))
        return 1
    sys.stdout.write(f"{SITE / _target(HOME)}\n")
    return 0


if __name__ == "__main__":
    sys.exit(main())
