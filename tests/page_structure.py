"""What a screen reader would stumble over on a page, found without a browser."""

from __future__ import annotations

import itertools
import re
from dataclasses import dataclass
from html.parser import HTMLParser

VOID = {"meta", "circle", "rect", "line", "path", "br", "img", "polyline"}


@dataclass
class Node:
    """An element: its tag, attributes, children and own text."""

    tag: str
    attributes: dict[str, str]
    children: list[Node]
    text: str = ""

    def walk(self) -> list[Node]:
        return [self, *(node for child in self.children for node in child.walk())]

    def all(self, tag: str) -> list[Node]:
        return [node for node in self.walk() if node.tag == tag]

    def words(self) -> str:
        return " ".join(f"{node.text} " for node in self.walk()).strip()


class Tree(HTMLParser):
    """A page as a tree."""

    def __init__(self, text: str) -> None:
        super().__init__()
        self.root = Node("document", {}, [])
        self._open = [self.root]
        self.feed(text)

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        node = Node(tag, {name: value or "" for name, value in attrs}, [])
        self._open[-1].children.append(node)
        if tag not in VOID:
            self._open.append(node)

    def handle_startendtag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        node = Node(tag, {name: value or "" for name, value in attrs}, [])
        self._open[-1].children.append(node)

    def handle_endtag(self, tag: str) -> None:
        assert self._open.pop().tag == tag

    def handle_data(self, data: str) -> None:
        self._open[-1].text += data


def structure_faults(text: str) -> list[str]:
    """Every fault of a whole page, in words; empty where there is none."""
    root = Tree(text).root
    ids = [node.attributes["id"] for node in root.walk() if "id" in node.attributes]
    faults = [f"id {name} is there twice" for name in set(ids) if ids.count(name) > 1]
    if [node.attributes.get("lang") for node in root.all("html")] != ["en"]:
        faults.append("no language")
    if len(root.all("title")) < 1 or not root.all("title")[0].words():
        faults.append("no title")
    if len(root.all("main")) != 1:
        faults.append("not one main landmark")
    levels = [int(node.tag[1]) for node in root.walk() if re.fullmatch("h[1-6]", node.tag)]
    if levels[:1] != [1] or levels.count(1) != 1:
        faults.append("not one first heading")
    faults += [f"heading {b} after {a}" for a, b in itertools.pairwise(levels) if b > a + 1]
    faults += [
        f"an empty {node.tag}"
        for node in root.walk()
        if re.fullmatch("h[1-6]|th|dt|figcaption", node.tag) and not node.words()
    ]
    for node in root.walk():
        for name in ("aria-labelledby", "aria-describedby"):
            faults += [
                f"{name} to {target}, which is not there"
                for target in node.attributes.get(name, "").split()
                if target not in ids
            ]
    return faults + _table_faults(root) + _graphic_faults(root)


def _table_faults(root: Node) -> list[str]:
    faults = []
    for table in root.all("table"):
        if not (table.attributes.get("aria-labelledby") or table.all("caption")):
            faults.append("a table without a name")
        faults += ["a th without scope" for th in table.all("th") if "scope" not in th.attributes]
        for row in [row for body in table.all("tbody") for row in body.all("tr")]:
            if not row.all("th"):
                faults.append("a row without a header")
    return faults


def _graphic_faults(root: Node) -> list[str]:
    faults = []
    for svg in root.all("svg"):
        if svg.attributes.get("aria-hidden") == "true":
            continue
        if svg.attributes.get("role") != "img" or not svg.attributes.get("aria-labelledby"):
            faults.append("a graphic without role and name")
        if not (svg.all("title") and svg.all("desc") and svg.all("desc")[0].words()):
            faults.append("a chart without a description in words")
    scrolling = [n for n in root.walk() if "scroll" in n.attributes.get("class", "").split()]
    for region in scrolling:
        named = region.attributes.get("aria-label") or region.attributes.get("aria-labelledby")
        if region.attributes.get("tabindex") != "0" or not named:
            faults.append("a scrolling region that no keyboard reaches")
    return faults
