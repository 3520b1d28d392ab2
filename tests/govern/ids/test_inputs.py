"""What inputs name: folders, links, datasets folders, URLs, extras, readers of other packages."""

from __future__ import annotations

import importlib.metadata
import json
import os
import re
import subprocess
import sys
import tomllib
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import raw_files

from govern.cli import main
from govern.ids.add import AddConfig, add_documents
from govern.ids.corpus import ReadOptions, read_corpus
from govern.ids.inputs import find_inputs
from govern.ids.pipeline import BuildConfig, build_ids
from govern.ids.readers import record, registry
from govern.ids.texts import read_texts
from manifests.errors import InputError, MissingExtraError
from manifests.reader import open_manifest

ROOT = Path(__file__).resolve().parents[3]


def names(folder: Path, *inputs: Path | str) -> list[str]:
    return [os.path.relpath(f.uri, folder) for f in find_inputs(inputs or [folder], None).files]


def write(path: Path, data: bytes = b'{"text": "x"}\n') -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(data)
    return path


def test_what_is_passed_over_is_counted(tmp_path: Path) -> None:
    for name in ("a.jsonl", "sub/b.txt", "x.png", "y.png", "README", ".hidden.jsonl"):
        write(tmp_path / name)
    (tmp_path / "gone.jsonl").symlink_to(tmp_path / "nowhere.jsonl")
    os.mkfifo(tmp_path / "pipe.jsonl")
    found = find_inputs([tmp_path], None)
    assert [Path(f.uri).name for f in found.files] == ["a.jsonl", "b.txt"]
    assert found.skipped == {
        ".png": 2, "broken link": 1, "hidden": 1, "no regular file": 1, "no suffix": 1,
    }  # fmt: skip


def test_links_are_followed_once(tmp_path: Path) -> None:
    write(tmp_path / "corpus" / "z" / "a.jsonl")
    write(tmp_path / "elsewhere" / "b.jsonl")
    (tmp_path / "corpus" / "a-link").symlink_to(tmp_path / "corpus" / "z")
    (tmp_path / "corpus" / "loop").symlink_to(tmp_path / "corpus")
    (tmp_path / "corpus" / "out").symlink_to(tmp_path / "elsewhere")
    (tmp_path / "elsewhere" / "back").symlink_to(tmp_path / "corpus")
    assert names(tmp_path / "corpus") == ["out/b.jsonl", "z/a.jsonl"]


def test_a_glob_opens_folders_and_ignores_what_no_reader_knows(tmp_path: Path) -> None:
    write(tmp_path / "a" / "one.jsonl")
    write(tmp_path / "b.jsonl")
    write(tmp_path / "c.png")
    assert names(tmp_path, f"{tmp_path}/*") == ["a/one.jsonl", "b.jsonl"]
    assert names(tmp_path, f"{tmp_path}/**") == ["a/one.jsonl", "b.jsonl"]
    assert find_inputs([f"{tmp_path}/*"], None).skipped == {".png": 1}


def test_every_input_must_name_something(tmp_path: Path) -> None:
    good = write(tmp_path / "a.jsonl")
    write(tmp_path / "pictures" / "c.png")
    with pytest.raises(InputError, match=r"found none that can be read: \.png 1; correct the path"):
        find_inputs([good, tmp_path / "pictures"], None)
    with pytest.raises(InputError, match=r"a name ending in \.jsonl, .*found another suffix"):
        find_inputs([tmp_path / "pictures" / "c.png"], None)


@pytest.mark.skipif(os.geteuid() == 0, reason="root reads everything")
def test_what_cannot_be_read_is_said(tmp_path: Path) -> None:
    folder = write(tmp_path / "closed" / "a.jsonl").parent
    folder.chmod(0)
    try:
        with pytest.raises(InputError, match="Permission denied"):
            find_inputs([tmp_path], None)
    finally:
        folder.chmod(0o700)
    (folder / "a.jsonl").chmod(0)
    with pytest.raises(InputError, match="Permission denied"):
        list(read_corpus([tmp_path], ReadOptions()))


def test_a_folder_that_cannot_be_listed_is_an_error(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    write(tmp_path / "closed" / "a.jsonl")
    listing = os.scandir

    def refuse(path: Any) -> Any:
        if str(path).endswith("closed"):
            raise PermissionError(13, "Permission denied", str(path))
        return listing(path)

    monkeypatch.setattr(os, "scandir", refuse)
    with pytest.raises(InputError, match="Permission denied"):
        find_inputs([tmp_path], None)


def test_a_name_that_is_not_utf8(tmp_path: Path) -> None:
    (tmp_path / os.fsdecode(b"bad\xff.jsonl")).write_text('{"text": "x"}')
    with pytest.raises(InputError, match=r"bad\\udcff.jsonl: expected a name in UTF-8"):
        find_inputs([tmp_path], None)


def dataset(folder: Path, **state: Any) -> Path:
    """What `save_to_disk` of Hugging Face `datasets` writes, with a cache file beside it."""
    listed = [{"filename": f"data-0000{i}-of-00002.arrow"} for i in range(2)]
    for one in listed:
        write(folder / one["filename"], raw_files.arrow_stream())
    write(folder / "cache-1234.arrow", raw_files.arrow_stream())
    info = {"features": {"text": {"dtype": "string"}}}
    write(folder / "dataset_info.json", json.dumps(info, indent=2).encode())
    write(folder / "state.json", json.dumps({"_data_files": listed, **state}, indent=2).encode())
    return folder


def test_datasets_folders(tmp_path: Path) -> None:
    write(tmp_path / "dataset_dict.json", b'{"splits": ["train"]}')
    train = dataset(tmp_path / "train")
    found = find_inputs([tmp_path], None)
    assert [os.path.relpath(f.uri, tmp_path) for f in found.files] == [
        "train/data-00000-of-00002.arrow",
        "train/data-00001-of-00002.arrow",
    ]
    assert found.skipped == {"about a dataset": 3, "cached by datasets": 1}
    report = build_ids([tmp_path], tmp_path / "manifest", BuildConfig(workers=1))
    # The second file repeats the IDs of the first.
    assert (report.records, report.documents, report.rejects) == (8, 4, 4)
    (train / "data-00001-of-00002.arrow").unlink()
    with pytest.raises(InputError, match=r"expected data-00001-of-00002\.arrow, which its state"):
        find_inputs([tmp_path], None)
    dataset(train, _indices_data_files=[{"filename": "indices.arrow"}])
    with pytest.raises(InputError, match=r"save it again after flatten_indices\(\)"):
        find_inputs([tmp_path], None)


def test_a_datasets_cache_folder_without_state(tmp_path: Path) -> None:
    folder = dataset(tmp_path)
    (folder / "state.json").unlink()
    assert names(folder) == ["data-00000-of-00002.arrow", "data-00001-of-00002.arrow"]


def test_urls() -> None:
    import fsspec

    memory = fsspec.filesystem("memory")
    for name in ("a.jsonl", "b.txt", "c.png", ".hidden/d.jsonl"):
        memory.pipe(f"/urls/{name}", b'{"text": "x"}\n')
    found = find_inputs(["memory://urls"], None)
    assert [f.uri for f in found.files] == ["memory:///urls/a.jsonl", "memory:///urls/b.txt"]
    assert found.skipped == {".png": 1, "hidden": 1}
    matching = find_inputs(["memory://urls/*.jsonl"], None)
    assert [f.uri for f in matching.files] == ["memory:///urls/a.jsonl"]


def test_file_urls_and_globs_on_them(tmp_path: Path) -> None:
    write(tmp_path / "a.jsonl")
    write(tmp_path / "b.jsonl")
    for url in (f"file://{tmp_path}", f"file://{tmp_path}/*.jsonl"):
        found = find_inputs([url], None)
        assert [Path(f.uri).name for f in found.files] == ["a.jsonl", "b.jsonl"]
        documents = sum(b.documents.num_rows for b in read_corpus([url], ReadOptions()))
        assert documents == 2


def test_a_url_without_its_driver_says_what_to_install(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "s3fs", None)
    with pytest.raises(MissingExtraError) as caught:
        find_inputs(["s3://bucket/a.jsonl"], None)
    assert str(caught.value) == (
        "input s3://bucket/a.jsonl: expected the fsspec driver of s3://, found none; "
        "install s3fs to access S3"
    )
    with pytest.raises(InputError, match="Protocol not known: nosuch"):
        find_inputs(["nosuch://bucket/a.jsonl"], None)


@pytest.fixture
def fresh_registry() -> Iterator[None]:
    """Readers are looked up once a process; these tests change what is installed."""
    registry._reader.cache_clear()
    registry._foreign.cache_clear()
    yield
    registry._reader.cache_clear()
    registry._foreign.cache_clear()


@pytest.mark.parametrize(
    ("name", "library", "extra"),
    [
        ("a.pdf", "pypdf", "pdf"),
        ("a.warc.gz", "warcio", "warc"),
        ("a.warc.wet.gz", "warcio", "warc"),
        ("a.html", "trafilatura", "html"),
    ],
)
@pytest.mark.usefixtures("fresh_registry")
def test_a_missing_extra_is_one_line(
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
    name: str,
    library: str,
    extra: str,
) -> None:
    known = importlib.metadata.version

    def version(distribution: str) -> str:
        if distribution == library:
            raise importlib.metadata.PackageNotFoundError(distribution)
        return known(distribution)

    monkeypatch.setattr("govern.ids.readers.extras.version", version)
    path = write(tmp_path / name)
    with pytest.raises(SystemExit) as stopped:
        main(["ids", "build", str(path), "--out", str(tmp_path / "manifest")])
    assert stopped.value.code == 1
    suffix = registry.split_suffixes(name)[0]
    assert capsys.readouterr().err == (
        f"govern: {suffix} files: expected the library {library}, found it is not installed; "
        f"pip install 'memsinks-govern[{extra}]'\n"
    )
    assert not (tmp_path / "manifest").exists()


def test_extras_are_those_of_the_distribution() -> None:
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
    assert project["name"] == "memsinks-govern"
    assert {"html", "pdf", "warc"} <= set(project["optional-dependencies"])


def test_no_library_of_an_extra_is_imported_for_other_files(tmp_path: Path) -> None:
    for name in ("a.jsonl", "b.csv", "c.txt"):
        write(tmp_path / name, b"text\nx\n")
    code = (
        "import sys\n"
        "from govern.ids.corpus import ReadOptions, read_corpus\n"
        "list(read_corpus([sys.argv[1]], ReadOptions()))\n"
        "heavy = {'trafilatura', 'lxml', 'pypdf', 'warcio', 'fsspec', 'torch', 'email.parser'}\n"
        "print(sorted(heavy & set(sys.modules)))\n"
    )
    done = subprocess.run(
        [sys.executable, "-c", code, str(tmp_path)], capture_output=True, text=True, check=True
    )
    assert done.stdout == "[]\n"


def test_extractors_are_recorded_per_snapshot(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    write(tmp_path / "a.jsonl", raw_files.jsonl())
    pages = tmp_path / "pages"
    write(pages / "a.html", raw_files.html())
    plain = build_ids([tmp_path / "a.jsonl"], tmp_path / "plain", BuildConfig(workers=1))
    assert plain.extractors == ()
    assert b'"extractors"' not in (tmp_path / "plain" / "manifest.json").read_bytes()

    out = tmp_path / "manifest"
    built = build_ids([pages], out, BuildConfig(workers=1))
    now = tuple(f"{n} {importlib.metadata.version(n)}" for n in ("lxml", "trafilatura"))
    assert built.extractors == now
    registry._reader.cache_clear()
    other = {"trafilatura": "99.0"}
    known = importlib.metadata.version
    monkeypatch.setattr(
        "govern.ids.readers.extras.version", lambda name: other.get(name) or known(name)
    )
    write(tmp_path / "more" / "b.html", raw_files.html(raw_files.TEXTS[1]))
    added = add_documents([tmp_path / "more"], out, AddConfig(workers=1))
    assert added.other_extractors == (now[1],)
    assert [s.extractors for s in open_manifest(out).snapshots] == [
        now,
        (now[0], "trafilatura 99.0"),
    ]
    write(pages / "a.html", raw_files.html(raw_files.TEXTS[3]))
    with pytest.raises(InputError, match=f"install what extracted the text then .{now[1]}"):
        list(read_texts(open_manifest(out), [pages, tmp_path / "more"]))
    registry._reader.cache_clear()
    with pytest.raises(SystemExit):
        main(["manifest", "info", str(out)])
    shown = capsys.readouterr().out
    assert f"extracted by {', '.join(now)}" in shown
    assert "trafilatura 99.0" in shown


FOREIGN = """
import pyarrow as pa
from govern.ids.readers import Broken, Reader, Record

def read_lines(source):
    for row, line in enumerate(source.lines()):
        if line == b"?":
            yield Broken(row, "not_text", line)
        else:
            yield Record(row, line.decode(), f"L{row}", (None,) * len(source.fields.kept))

def read_batches(source):
    texts = source.whole().decode().split()
    yield pa.record_batch({"text": texts, "id": [t[0] for t in texts], "start": [3] * len(texts),
                           "end": [9] * len(texts)})
    yield pa.record_batch({"text": ["last"]})

LINES = Reader(read=read_lines)
BATCHES = Reader(read=read_batches)
WRONG = "no reader"
"""


@pytest.fixture
def foreign(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, fresh_registry: None) -> Path:
    """A package as pip would install it: a module, and a .dist-info with entry points."""
    del fresh_registry
    site = tmp_path / "site"
    info = site / "foreign_readers-1.5.dist-info"
    write(site / "foreign_readers.py", FOREIGN.encode())
    write(info / "METADATA", b"Metadata-Version: 2.1\nName: foreign-readers\nVersion: 1.5\n")
    write(
        info / "entry_points.txt",
        b"[memsinks_govern.readers]\nlns = foreign_readers:LINES\nbts = foreign_readers:BATCHES\n"
        b"wrg = foreign_readers:WRONG\ngone = foreign_readers_gone:READER\n"
        b"txt = foreign_readers:LINES\n",
    )
    monkeypatch.syspath_prepend(str(site))
    monkeypatch.delitem(sys.modules, "foreign_readers", raising=False)
    return tmp_path


def test_a_reader_of_another_package(foreign: Path) -> None:
    path = write(foreign / "a.lns.gz", raw_files.COMPRESS[".gz"](b"one\n?\nthree\n"))
    found = find_inputs([path], None)
    assert found.extractors == ("foreign-readers 1.5",)
    assert found.files[0].source == "a"
    [batch] = read_corpus([path], ReadOptions())
    assert batch.documents["doc_id"].to_pylist() == ["L0", "L2"]
    assert batch.rejects["row"].to_pylist() == [1]
    report = build_ids([path], foreign / "manifest", BuildConfig(workers=1))
    assert report.extractors == ("foreign-readers 1.5",)


def test_a_foreign_reader_of_arrow_batches(foreign: Path) -> None:
    path = write(foreign / "a.bts", b"alpha beta")
    [batch] = read_corpus([path], ReadOptions())
    assert batch.documents.select(["text", "doc_id", "row", "start", "end"]).to_pydict() == {
        "text": ["alpha", "beta", "last"],
        "doc_id": ["a", "b", f"{path}#2"],
        "row": [0, 1, 2],
        "start": [3, 3, 0],
        "end": [9, 9, 4],
    }


def test_foreign_readers_that_cannot_be_used(foreign: Path) -> None:
    with pytest.raises(InputError, match=r"expected a govern\.ids\.readers\.Reader from foreign"):
        find_inputs([write(foreign / "a.wrg")], None)
    with pytest.raises(InputError, match="No module named 'foreign_readers_gone'"):
        find_inputs([write(foreign / "a.gone")], None)
    # A suffix of ours stays ours: installing a package must not change what a text is.
    assert find_inputs([write(foreign / "a.txt")], None).extractors == ()
    info = foreign / "site" / "second-1.dist-info"
    write(info / "METADATA", b"Metadata-Version: 2.1\nName: second\nVersion: 1\n")
    write(info / "entry_points.txt", b"[memsinks_govern.readers]\nlns = second:READER\n")
    registry._foreign.cache_clear()
    with pytest.raises(InputError, match="uninstall one of the packages"):
        find_inputs([write(foreign / "a.lns")], None)


def test_the_documentation_names_every_suffix_and_reason() -> None:
    text = (ROOT / "docs" / "corpora.md").read_text()
    named = set(re.findall(r"`([.\w]+)`", text))
    assert set(registry.BUILT_IN) <= named
    reasons = {v for k, v in vars(record).items() if k.isupper() and isinstance(v, str)}
    assert reasons <= named


@pytest.mark.usefixtures("fresh_registry")
def test_the_reader_that_the_documentation_shows(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    text = (ROOT / "docs" / "corpora.md").read_text()
    [code] = re.findall(r"```python\n# subrip\.py\n(.*?)```", text, flags=re.DOTALL)
    [toml] = re.findall(r"```toml\n(.*?)```", text, flags=re.DOTALL)
    [(group, points)] = tomllib.loads(toml)["project"]["entry-points"].items()
    site = tmp_path / "site"
    write(site / "subrip.py", code.encode())
    write(site / "subrip-0.1.dist-info" / "METADATA", b"Name: subrip\nVersion: 0.1\n")
    lines = [f"[{group}]", *(f"{name} = {value}" for name, value in points.items())]
    write(site / "subrip-0.1.dist-info" / "entry_points.txt", "\n".join(lines).encode())
    monkeypatch.syspath_prepend(str(site))
    film = b"1\r\n00:01 --> 00:02\r\nWho is there?\r\n\r\n2\r\n00:03 --> 00:04\r\nNobody.\r\n"
    write(tmp_path / "film.srt.gz", raw_files.COMPRESS[".gz"](film))
    write(tmp_path / "cut.srt.gz", raw_files.COMPRESS[".gz"](film)[:-9])
    found = find_inputs([tmp_path / "film.srt.gz", tmp_path / "cut.srt.gz"], None)
    assert found.extractors == ("subrip 0.1",)
    [batch] = read_corpus([f.uri for f in found.files], ReadOptions())
    assert batch.documents["text"].to_pylist() == ["Who is there?\nNobody."]
    assert batch.rejects["reason"].to_pylist() == ["truncated_file"]
