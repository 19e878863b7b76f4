"""What the pages name is there: links, paths, targets, flags, configurations."""

from __future__ import annotations

import os
import re
from collections.abc import Iterator

import pytest

from tests.docs import naming
from tools.lint import tree

PAGES = [path for path in tree.files() if path.endswith(".md")]
FOLDERS = {path.partition("/")[0] for path in tree.files() if "/" in path}


def text(page: str) -> str:
    return (tree.root() / page).read_text()


def spans(page: str) -> Iterator[str]:
    """What stands between backticks, word by word."""
    ours = text(page)
    if page == "docs/migration.md":  # the first column is what others have
        ours = re.sub(r"^\|[^|\n]*\|", "|", ours, flags=re.MULTILINE)
    for span in re.findall(r"(?<!`)`([^`\n]+)`(?!`)", ours):
        yield from span.split()


@pytest.mark.parametrize("page", PAGES)
def test_every_link_leads_to_a_file(page: str) -> None:
    for link in re.findall(r"\]\(([^)#\s]+)(?:#[^)]*)?\)", text(page)):
        if not link.startswith(("http:", "https:")):
            target = os.path.normpath(os.path.join(os.path.dirname(page), link))
            assert (tree.root() / target).exists(), link


@pytest.mark.parametrize("page", PAGES)
def test_every_path_is_there(page: str) -> None:
    for word in spans(page):
        if re.fullmatch(r"[\w.*<>{}/-]+", word) and word.partition("/")[0] in FOLDERS:
            assert naming.path(word), word


@pytest.mark.parametrize("page", PAGES)
def test_every_target_is_there(page: str) -> None:
    for label in re.findall(r"(?<![\w:@/])//[\w./-]*(?::[\w./-]+)?", text(page)):
        assert naming.label(label), label


@pytest.mark.parametrize("page", PAGES)
def test_every_configuration_is_there(page: str) -> None:
    for name in re.findall(r"--config=(\w+)", text(page)):
        assert naming.config(name), name


def test_every_message_is_one_of_the_build() -> None:
    """Each first cell of the table of messages is a text of the sources, `...` being anything."""
    table = text("docs/build.md").partition("## Messages")[2]
    messages = re.findall(r"^\| `([^`]+)` \|", table, re.MULTILINE)
    sources = "\n".join(
        text(path)
        for path in tree.files()
        if path.endswith((".bzl", ".py")) or path == "tools/bazel"
    )
    assert len(messages) > 10
    for message in messages:
        parts = [part.strip(" ,:") for part in message.split("...")]
        anything = "[^\\n]*".join(re.escape(part) for part in parts)
        assert re.search(anything, sources), message


def test_what_is_not_there_is_not_found() -> None:
    assert not naming.path("csrc/hstu_attn/nothing.h")
    assert not naming.label("//csrc/nothing:wheel") and not naming.label("//python/hkv:nothing")
    assert not naming.label("//csrc/hstu_attn:HSTU_DISABLE_NOTHING")
    assert not naming.config("nothing")
