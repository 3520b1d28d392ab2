"""The pages in a real browser: silent console, nothing wider than the screen, A4 uncut."""

from __future__ import annotations

import re
import shutil
import subprocess
from collections.abc import Callable
from pathlib import Path

import pytest
from audit_world import World

from govern.audit.ledger import read_ledger
from govern.audit.portfolio import render_portfolio
from govern.audit.report import render_report

BROWSER = shutil.which("chromium") or shutil.which("chromium-browser")
pytestmark = pytest.mark.skipif(BROWSER is None, reason="no Chromium on this machine")

# Scripts never run in the page itself (its policy forbids them); this outer page measures it in a
# frame of the given width and writes what it found into its own title.
MEASURE = """<!DOCTYPE html><meta charset="utf-8"><title>waiting</title>
<iframe id="f" src="page.html" style="width:{width}px;height:900px;border:0"></iframe>
<script>
document.getElementById("f").onload = (event) => {{
  const page = event.target.contentDocument, root = page.documentElement;
  const small = [...page.querySelectorAll("p, dd, td, th, li")].filter(
    (e) => parseFloat(getComputedStyle(e).fontSize) < 11).length;
  document.body.textContent =
    `wide=${{root.scrollWidth - root.clientWidth}} small=${{small}} height=${{root.scrollHeight}}`;
}};
</script>"""


def browse(folder: Path, *arguments: str) -> subprocess.CompletedProcess[str]:
    assert BROWSER is not None
    command = [
        BROWSER, "--headless", "--no-sandbox", "--disable-gpu", "--no-first-run", "--disable-quic",
        "--disable-background-networking", "--disable-component-update", "--disable-sync",
        "--allow-file-access-from-files", "--enable-logging=stderr", "--v=0",
        f"--user-data-dir={folder / 'profile'}", *arguments,
    ]  # fmt: skip
    return subprocess.run(command, capture_output=True, text=True, check=False, timeout=120)


PAGES: dict[str, Callable[[World], str]] = {
    "report": lambda world: render_report(world.report),
    "portfolio": lambda world: render_portfolio(read_ledger(world.ledger), [world.base]),
}


@pytest.mark.parametrize(("name", "width"), [("report", 390), ("report", 1280), ("portfolio", 390)])
def test_nothing_is_wider_than_the_screen(
    name: str, width: int, pristine: World, tmp_path: Path
) -> None:
    (tmp_path / "page.html").write_text(PAGES[name](pristine), encoding="utf-8")
    (tmp_path / "measure.html").write_text(MEASURE.format(width=width), encoding="utf-8")
    address = (tmp_path / "measure.html").as_uri()
    done = browse(tmp_path, "--window-size=1400,1000", "--virtual-time-budget=5000",
                  "--dump-dom", address)  # fmt: skip
    found = re.search(r"wide=(-?\d+) small=(\d+) height=(\d+)", done.stdout)
    assert found, done.stdout[-500:] + done.stderr[-500:]
    wide, small, height = map(int, found.groups())
    assert wide <= 0
    assert small == 0
    assert height > 1500


@pytest.mark.parametrize("name", sorted(PAGES))
def test_it_prints_on_a4_and_the_console_is_silent(
    name: str, pristine: World, tmp_path: Path
) -> None:
    page = tmp_path / "page.html"
    page.write_text(PAGES[name](pristine), encoding="utf-8")
    target = tmp_path / "page.pdf"
    done = browse(tmp_path, "--no-pdf-header-footer", f"--print-to-pdf={target}", page.as_uri())
    assert ":CONSOLE" not in done.stderr, done.stderr
    data = target.read_bytes()
    boxes = re.findall(rb"/MediaBox ?\[0 0 ([\d.]+) ([\d.]+)\]", data)
    assert boxes
    for width, height in boxes:  # points: 210 x 297 mm
        assert abs(float(width) - 595.3) < 1.5
        assert abs(float(height) - 841.9) < 1.5
