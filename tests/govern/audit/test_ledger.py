"""The ledger: append, read, prove; kill it anywhere; alter it anyhow."""

from __future__ import annotations

import shutil
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from govern.audit import ledger as module
from govern.audit.ledger import append, read_ledger
from govern.audit.signing import Envelope, new_private_key, sign
from manifests import merkle
from manifests.errors import InputError, IntegrityError, LockedError
from manifests.files import writer_lock

KEY, OTHER = new_private_key(), new_private_key()
TIME = "2026-11-23T12:00:00Z"


def entry(number: int) -> Envelope:
    return sign(f"entry {number}".encode(), "text/plain", [KEY])


def fill(path: Path, count: int) -> Path:
    for number in range(count):
        append(path, entry(number), key=KEY, time=TIME)
    return path


def files(path: Path) -> dict[str, bytes]:
    return {
        p.relative_to(path).as_posix(): p.read_bytes()
        for p in sorted(path.rglob("*"))
        if p.is_file() and p.name != ".lock"
    }


@pytest.fixture(scope="module")
def five(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return fill(tmp_path_factory.mktemp("ledger") / "five", 5)


def test_every_receipt_leads_to_its_signed_head(five: Path) -> None:
    ledger = read_ledger(five)
    assert [e.canonical() for e in map(entry, range(5))] == list(ledger.entries)
    for index in range(5):
        proof = ledger.proof(index)
        root = merkle.root_from_inclusion(
            merkle.leaf_hash(ledger.entries[index]),
            proof.entry_index,
            proof.tree_size,
            [bytes.fromhex(node) for node in proof.inclusion_path],
        )
        head = module.parse_head(proof.tree_head, "head")
        assert root is not None
        assert (root.hex(), index + 1) == (head.root, head.tree_size)


def test_the_newest_head_continues_every_older_one(five: Path) -> None:
    ledger = read_ledger(five)
    heads = [module.parse_head(head, "head") for head in ledger.heads]
    for head in heads:
        path = ledger.consistency(head.tree_size)
        assert merkle.consistency_holds(
            bytes.fromhex(head.root), head.tree_size, bytes.fromhex(heads[-1].root), 5, path
        )


def test_appending_again_changes_nothing(five: Path, tmp_path: Path) -> None:
    path = shutil.copytree(five, tmp_path / "ledger")
    before = files(path)
    proof = append(path, entry(2), key=OTHER, time="2027-01-01T00:00:00Z")
    assert proof == read_ledger(five).proof(2)
    # Only the second person's key is new; entries and heads are as they were.
    assert {k: v for k, v in files(path).items() if not k.startswith("keys/")} == {
        k: v for k, v in before.items() if not k.startswith("keys/")
    }


@given(st.integers(0, 40))
@settings(max_examples=20)
def test_prefix_roots_are_the_tree_roots(size: int) -> None:
    leaves = [merkle.leaf_hash(str(i).encode()) for i in range(size)]
    peaks: list[tuple[int, bytes]] = []
    for count, leaf in enumerate(leaves, start=1):
        module._push(peaks, leaf)
        assert module._fold(peaks) == merkle.tree_root(leaves[:count])


def test_a_second_writer_is_told_who_writes(five: Path, tmp_path: Path) -> None:
    path = shutil.copytree(five, tmp_path / "ledger")
    before = files(path)
    with writer_lock(path), pytest.raises(LockedError, match="pid"):
        append(path, entry(9), key=KEY, time=TIME)
    assert files(path) == before


def test_no_ledger_is_an_input_error(tmp_path: Path) -> None:
    with pytest.raises(InputError, match="no such directory"):
        read_ledger(tmp_path / "missing")


def test_every_flipped_byte_is_found_and_its_file_named(tmp_path: Path) -> None:
    path = fill(tmp_path / "ledger", 2)
    for name, data in files(path).items():
        # A flipped head reads as a fault of the head or of the entry that it covers.
        number = "" if name.startswith("keys/") else f"{int(Path(name).stem) - 1:08d}"
        for at in range(len(data)):
            (path / name).write_bytes(data[:at] + bytes([data[at] ^ 1]) + data[at + 1 :])
            with pytest.raises(IntegrityError) as caught:
                read_ledger(path)
            message = str(caught.value)
            if name.startswith("keys/"):
                assert "keys/" in message, (name, at)
            else:
                named = name in message or f"entries/{number}.json" in message
                assert named, (name, at, message)
        (path / name).write_bytes(data)
    assert len(read_ledger(path).entries) == 2


def _swap(path: Path, a: str, b: str) -> None:
    first, second = (path / a).read_bytes(), (path / b).read_bytes()
    (path / a).write_bytes(second)
    (path / b).write_bytes(first)


def _replace_last_entry(path: Path) -> None:
    (path / "entries/00000004.json").write_bytes(entry(99).canonical())


def _foreign_head(path: Path) -> None:
    head = module.TreeHead(tree_size=5, root=merkle.tree_root(read_ledger(path).leaves()).hex(),
                           time=TIME)  # fmt: skip
    signed = sign(head.canonical(), module.HEAD_TYPE, [OTHER])
    (path / "heads/00000005.json").write_bytes(signed.canonical())


def _renumbered_head(path: Path) -> None:
    shutil.copy(path / "heads/00000004.json", path / "heads/00000005.json")


ALTERATIONS: dict[str, tuple[Callable[[Path], object], str]] = {
    "entries reordered": (
        lambda p: _swap(p, "entries/00000001.json", "entries/00000002.json"),
        r"entries/00000001\.json",
    ),
    "heads reordered": (
        lambda p: _swap(p, "heads/00000002.json", "heads/00000003.json"),
        r"heads/00000002\.json",
    ),
    "middle entry dropped": (
        lambda p: (p / "entries/00000002.json").unlink(),
        r"entries/00000002\.json",
    ),
    "last entry dropped": (lambda p: (p / "entries/00000004.json").unlink(), "5 entries"),
    "first head dropped": (lambda p: (p / "heads/00000001.json").unlink(), r"heads/00000001"),
    "two heads dropped": (
        lambda p: [(p / f"heads/0000000{i}.json").unlink() for i in (4, 5)],
        "3 entries for 3 heads",
    ),
    "last entry exchanged": (_replace_last_entry, r"entries/00000004\.json"),
    "head signed by a stranger": (_foreign_head, "unknown key"),
    "head of another size": (_renumbered_head, "a head over 5 entries"),
    "foreign file": (lambda p: (p / "entries/note.txt").write_text("x"), "numbered files"),
    "entry is a link": (
        lambda p: (
            (p / "entries/00000004.json").rename(p / "aside")
            and (p / "entries/00000004.json").symlink_to(p / "aside")
        ),
        "a regular file",
    ),
    "key removed": (
        lambda p: [k.unlink() for k in (p / "keys").iterdir()],
        "unknown key",
    ),
}


@pytest.mark.parametrize("name", sorted(ALTERATIONS))
def test_an_altered_ledger_is_refused(name: str, five: Path, tmp_path: Path) -> None:
    path = shutil.copytree(five, tmp_path / "ledger")
    alter, message = ALTERATIONS[name]
    alter(path)
    with pytest.raises(IntegrityError, match=message):
        read_ledger(path)
    before = files(path)
    with pytest.raises(IntegrityError):
        append(path, entry(7), key=KEY, time=TIME)
    assert files(path) == before


def test_a_pending_entry_is_shown_and_completed_first(five: Path, tmp_path: Path) -> None:
    path = shutil.copytree(five, tmp_path / "ledger")
    (path / "heads/00000005.json").unlink()
    pending = read_ledger(path)
    assert (len(pending.entries), pending.pending) == (4, entry(4).canonical())
    proof = append(path, entry(5), key=KEY, time=TIME)
    assert proof.entry_index == 5
    assert read_ledger(path).entries[4] == entry(4).canonical()


# The whole loop lives in its own process, because forking wants no other thread.
DRIVER = """
import shutil, sys
from pathlib import Path
sys.path[:0] = sys.argv[1:3]
from kill_points import run_killed_at
from govern.audit.ledger import append, read_ledger
from govern.audit.signing import Envelope, load_private_key
from govern.audit.records import parse_canonical

base = Path(sys.argv[3])
key = load_private_key(base / "key.pem")
envelope = Envelope.from_dict(parse_canonical((base / "entry.json").read_bytes(), "entry"))
time = "2026-11-23T12:00:00Z"
for start in ("nothing", "two"):
    point, killed, pending = 1, True, 0
    while killed:
        path = base / "ledger"
        shutil.rmtree(path, ignore_errors=True)
        if start == "two":
            shutil.copytree(base / "two", path)
        size = 2 if start == "two" else 0
        killed = run_killed_at(point, lambda: append(path, envelope, key=key, time=time))
        if (path / "entries").is_dir() and (path / "heads").is_dir():
            found = read_ledger(path)
            assert len(found.entries) in (size, size + 1), point
            pending += found.pending is not None
        proof = append(path, envelope, key=key, time=time)
        whole = read_ledger(path)
        assert proof.entry_index == size, point
        assert len(whole.entries) == size + 1 and whole.pending is None, point
        assert whole.proof(size) == proof, point
        left = [p.name for p in path.rglob("*.tmp")]
        assert not left, left
        point += 1
    assert pending >= 1, "no kill fell between entry and head"
    print(start, point - 2)
"""


def test_a_kill_at_any_operation_leaves_a_whole_ledger(tmp_path: Path) -> None:
    from cryptography.hazmat.primitives.serialization import Encoding, NoEncryption, PrivateFormat

    pem = KEY.signer._private_key.private_bytes(Encoding.PEM, PrivateFormat.PKCS8, NoEncryption())
    (tmp_path / "key.pem").write_bytes(pem)
    (tmp_path / "entry.json").write_bytes(entry(8).canonical())
    fill(tmp_path / "two", 2)
    root = Path(__file__).parents[3]
    done = subprocess.run(
        [sys.executable, "-c", DRIVER, str(root), str(root / "tests"), str(tmp_path)],
        capture_output=True, text=True, check=False,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    points = {line.split()[0]: int(line.split()[1]) for line in done.stdout.splitlines()}
    assert set(points) == {"nothing", "two"}
    assert min(points.values()) >= 8, points
