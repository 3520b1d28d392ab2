"""The pages that people read, held to WCAG 2.2: by their structure always, by axe where it is.

The audit with axe-core needs Chromium and the script, which is not part of this project:

    npm pack axe-core && tar xf axe-core-*.tgz
    AXE_CORE=package/axe.min.js python -m pytest tests/govern/test_pages_accessible.py
"""

from __future__ import annotations

import json
import os
import re
import shutil
import subprocess
from collections.abc import Callable
from dataclasses import replace
from html import unescape
from importlib.resources import files
from pathlib import Path

import pytest
from audit_world import World, build_world
from page_structure import structure_faults

from govern.audit.ledger import append, read_ledger
from govern.audit.portfolio import render_portfolio
from govern.audit.report import render_report
from govern.audit.signing import sign
from govern.audit.statement import PAYLOAD_TYPE

BROWSER = shutil.which("chromium") or shutil.which("chromium-browser")
CSS = (files("govern.audit") / "templates" / "report.css").read_text("utf-8")


@pytest.fixture(scope="module")
def world(tmp_path_factory: pytest.TempPathFactory) -> World:
    """A ledger with a request of each verdict."""
    world = build_world(tmp_path_factory.mktemp("pages") / "world")
    for month, verdict in enumerate(("WARNED", "FAILED"), start=1):
        p = world.statement.predicate
        predicate = replace(
            p,
            request=replace(p.request, executed_at=f"2027-0{month}-01T00:00:00Z"),
            verdict=replace(p.verdict, result=verdict, reasons=("a reason",)),
        )
        statement = replace(world.statement, predicate=predicate)
        envelope = sign(statement.canonical(), PAYLOAD_TYPE, [world.key])
        append(world.ledger, envelope, key=world.key, time="2027-03-01T00:00:00Z")
    return world


PAGES: dict[str, Callable[[World], str]] = {
    "report": lambda world: render_report(world.report),
    "report without names": lambda world: render_report(replace(world.report, disclosure=None)),
    "portfolio": lambda world: render_portfolio(read_ledger(world.ledger), [world.base]),
}


@pytest.mark.parametrize("name", sorted(PAGES))
def test_the_structure_can_be_heard(name: str, world: World) -> None:
    assert structure_faults(PAGES[name](world)) == []


@pytest.mark.parametrize(
    ("old", "new", "fault"),
    [
        ('<html lang="en">', "<html>", "no language"),
        ("<h2 ", "<h4 ", "heading 4 after 1"),
        (' scope="col"', "", "a th without scope"),
        (' role="img"', "", "a graphic without role and name"),
        (' tabindex="0"', "", "a scrolling region that no keyboard reaches"),
        ('id="outstanding-caption"', "", "aria-labelledby to outstanding-caption"),
    ],
)
def test_a_fault_would_be_heard(old: str, new: str, fault: str, world: World) -> None:
    page = PAGES["portfolio"](world)
    assert old in page
    broken = page.replace(old, new)
    if old == "<h2 ":
        broken = broken.replace("</h2>", "</h4>")
    assert any(fault in found for found in structure_faults(broken)), structure_faults(broken)


# --- contrast ------------------------------------------------------------------------------------


def luminance(colour: str) -> float:
    """Relative luminance, WCAG 2.2, from `#rrggbb`."""
    channels = [int(colour[at : at + 2], 16) / 255 for at in (1, 3, 5)]
    linear = [c / 12.92 if c <= 0.04045 else ((c + 0.055) / 1.055) ** 2.4 for c in channels]
    return 0.2126 * linear[0] + 0.7152 * linear[1] + 0.0722 * linear[2]


def contrast(one: str, other: str) -> float:
    """Contrast ratio, WCAG 2.2: 1 to 21."""
    light, dark = sorted((luminance(one), luminance(other)), reverse=True)
    return (light + 0.05) / (dark + 0.05)


def test_contrast_is_that_of_the_standard() -> None:
    assert contrast("#000000", "#ffffff") == pytest.approx(21)
    assert contrast("#777777", "#ffffff") == pytest.approx(4.478, abs=1e-3)


def test_text_stands_out_from_every_background() -> None:
    """At least 4.5 : 1 for text (1.4.3), 3 : 1 for what a chart is made of (1.4.11)."""
    colours = dict(re.findall(r"--([a-z]+): (#[0-9a-f]{6})", CSS))
    paper, soft = colours["paper"], colours["soft"]
    for name in ("ink", "muted", "accent", "pass", "warn", "fail"):
        for background in (paper, soft):
            assert contrast(colours[name], background) >= 4.5, (name, background)
    cards = re.findall(r"^\.(\w+) \{ color: var\(--(\w+)\); .*background: (#\w{6})", CSS, re.M)
    assert [name for name, _, _ in cards] == ["passed", "warned", "failed"]
    for name, colour, background in cards:
        for text in (colours[colour], colours["ink"]):
            assert contrast(text, background) >= 4.5, name
    for name in ("before", "after", "reference", "pass", "warn", "fail"):
        assert contrast(colours[name], paper) >= 3, name


# --- in a browser --------------------------------------------------------------------------------

RUN_AXE = """<script>
axe.run(document, {resultTypes: ["violations"]}).then((found) => {
  const out = document.createElement("pre");
  out.id = "axe-found";
  out.textContent = JSON.stringify(found.violations.map((v) =>
    ({id: v.id, impact: v.impact, where: v.nodes.map((n) => n.html.slice(0, 120)).slice(0, 3)})));
  document.body.append(out);
});
</script>"""


def axe_faults(page: str, folder: Path, width: int) -> list[dict[str, object]]:
    """What axe-core finds. The page's policy forbids scripts, so it is taken out of the copy."""
    script = Path(os.environ["AXE_CORE"]).read_text("utf-8").replace("</script>", "<\\/script>")
    copy = re.sub(r'<meta http-equiv="Content-Security-Policy"[^>]*>', "", page)
    copy = copy.replace("</body>", f"<script>{script}</script>{RUN_AXE}</body>")
    (folder / "page.html").write_text(copy, encoding="utf-8")
    command = [
        str(BROWSER), "--headless", "--no-sandbox", "--disable-gpu", "--no-first-run",
        "--disable-background-networking", f"--user-data-dir={folder / 'profile'}",
        f"--window-size={width},1200", "--virtual-time-budget=20000", "--dump-dom",
        (folder / "page.html").as_uri(),
    ]  # fmt: skip
    done = subprocess.run(command, capture_output=True, text=True, check=False, timeout=180)
    found = re.search(r'<pre id="axe-found">(.*?)</pre>', done.stdout, re.S)
    assert found, done.stderr[-1000:]
    faults: list[dict[str, object]] = json.loads(unescape(found[1]))
    return faults


@pytest.mark.skipif(
    BROWSER is None or "AXE_CORE" not in os.environ,
    reason="needs Chromium, and axe.min.js of axe-core named by AXE_CORE",
)
@pytest.mark.parametrize("width", [390, 1280])
@pytest.mark.parametrize("name", sorted(PAGES))
def test_axe_finds_nothing(name: str, width: int, world: World, tmp_path: Path) -> None:
    assert axe_faults(PAGES[name](world), tmp_path, width) == []


@pytest.mark.skipif(
    BROWSER is None or "AXE_CORE" not in os.environ,
    reason="needs Chromium, and axe.min.js of axe-core named by AXE_CORE",
)
def test_axe_would_find_something(world: World, tmp_path: Path) -> None:
    page = PAGES["portfolio"](world).replace('<html lang="en">', "<html>")
    page = page.replace("--muted: #545d6e", "--muted: #b0b5bd")
    found = {fault["id"] for fault in axe_faults(page, tmp_path, 1280)}
    assert {"html-has-lang", "color-contrast"} <= found
