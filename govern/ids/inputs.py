"""What inputs name: files with their readers, and what was passed over: `find_inputs`."""

from __future__ import annotations

import glob
import json
import os
from collections import Counter
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path, PurePosixPath
from typing import Any, NamedTuple

from govern.ids.readers.registry import Format, format_of, known_suffixes, split_suffixes
from govern.ids.readers.source import Reader
from govern.ids.readers.streams import COMPRESSED, filesystem_of, is_url
from manifests.errors import InputError

_STATE = "state.json"
_DATASETS = frozenset({"dataset_info.json", "dataset_dict.json", _STATE})


@dataclass(frozen=True, kw_only=True)
class CorpusFile:
    """One file to read.

    Attributes:
        uri: As the user named it.
        bytes: Its size.
        version: What changes when the file does: its time of change, or what its server says.
        source: The source that it stands for.
        format: Its reader and its compression.
    """

    uri: str
    bytes: int
    version: str
    source: str
    format: Format

    @property
    def reader(self) -> Reader:
        """What reads it."""
        return self.format.reader


@dataclass(frozen=True, kw_only=True)
class Inputs:
    """The files that inputs name.

    Attributes:
        files: By path, each once.
        skipped: How many files below folders and patterns were passed over, by what they are: a
            suffix that no reader knows, `hidden`, `no regular file` and the like.
    """

    files: tuple[CorpusFile, ...]
    skipped: Mapping[str, int]

    @property
    def extractors(self) -> tuple[str, ...]:
        """What shapes the text of these files beside this package, as `name version`."""
        return tuple(sorted({one for file in self.files for one in file.format.extractors}))

    def other_releases(self, recorded: Iterable[str]) -> tuple[str, ...]:
        """Those of `recorded` extractors that these files meet in another release now."""
        now = {one.rpartition(" ")[0]: one for one in self.extractors}
        return tuple(
            sorted({one for one in recorded if now.get(one.rpartition(" ")[0], one) != one})
        )


class _Place(NamedTuple):
    """A file that was found, or one that is passed over and why."""

    uri: str
    bytes: int
    version: str
    source: str
    skipped: str | None = None


def find_inputs(inputs: Sequence[str | os.PathLike[str]], source: str | None) -> Inputs:
    """The files that inputs name, by path; a file that is named twice is read once.

    An input is a file, a folder (every file with a known suffix below it, links to folders
    followed, hidden ones left out), a glob pattern, or an fsspec URL of any of these. Of a folder
    that Hugging Face `datasets` wrote, the files that its `state.json` lists are read.

    Args:
        inputs: What the user named.
        source: The source of all documents; by default the name of each input.

    Raises:
        InputError: An input names nothing that can be read, or cannot be listed.
        MissingExtraError: A file needs a library that is not installed.
    """
    files: dict[str, CorpusFile] = {}
    skipped: dict[str, str] = {}
    for given in inputs:
        name = os.fspath(given)
        readable = False
        for place in _expand(name):
            _require_utf8(place.uri)
            found = None if place.skipped else format_of(place.uri)
            if found is not None:
                readable = True
                one = CorpusFile(
                    uri=place.uri,
                    bytes=place.bytes,
                    version=place.version,
                    source=source or place.source,
                    format=found,
                )
                files.setdefault(place.uri, one)
            elif place.uri == name:
                raise _unknown_suffix(name)
            else:
                skipped[place.uri] = place.skipped or split_suffixes(place.uri)[0] or "no suffix"
        if not readable:
            raise _nothing(name, _passed_over(skipped))
    if not files:
        raise _nothing("corpus", "no inputs")
    return Inputs(
        files=tuple(files[uri] for uri in sorted(files)),
        skipped=dict(sorted(Counter(skipped.values()).items())),
    )


def find_files(inputs: Sequence[str | os.PathLike[str]], source: str | None) -> list[CorpusFile]:
    """`find_inputs` for those who only want the files."""
    return list(find_inputs(inputs, source).files)


def require_unchanged(file: CorpusFile) -> None:
    """Refuse a local file that is not the one that was found: half of it may be old, half new.

    Raises:
        InputError: It was written to, or is gone.
    """
    if is_url(file.uri):
        return
    try:
        now = _version(Path(file.uri).stat())
    except OSError as error:
        found = error.strerror or "no file"
    else:
        if now == file.version:
            return
        found = "one that was written to meanwhile"
    raise InputError(
        f"corpus file {file.uri}",
        expected="a file that stays as it is while it is read",
        found=found,
        remedy="run it again when nothing writes there",
    )


def _version(status: os.stat_result) -> str:
    return f"{status.st_size} bytes, changed at {status.st_mtime_ns} ns"


def _passed_over(skipped: Mapping[str, str]) -> str:
    if not skipped:
        return "no file there"
    counted = Counter(skipped.values()).most_common(3)
    return "none that can be read: " + ", ".join(f"{why} {n:,}" for why, n in counted)


def _expand(name: str) -> Iterator[_Place]:
    """Every file that an input names."""
    if is_url(name):
        yield from _expand_url(name)
        return
    path = Path(name)
    try:
        if path.is_dir():
            yield from _walk(path)
        elif path.is_file():
            yield _place(path, _stem(name))
        else:
            yield from _matches(name)
    except OSError as error:
        # A folder that cannot be listed would otherwise look like an empty one.
        raise _nothing(name, str(error)) from None


def _matches(pattern: str) -> Iterator[_Place]:
    found = [Path(match) for match in sorted(glob.glob(pattern, recursive=True))]
    if not found:
        raise _nothing(pattern, "nothing there")
    for path in found:
        # With **, the files below a folder match by themselves.
        if path.is_dir() and "**" not in pattern:
            yield from _walk(path)
        elif not path.is_dir():
            yield _below(path, _stem(path.name), None)


def _walk(folder: Path) -> Iterator[_Place]:
    """The files below a folder, each folder once, however many links lead to it."""
    source = folder.resolve().name
    known: set[tuple[int, int]] = set()
    # Links wait until all real folders are known, so that a file is named by its own path.
    folders, links = [folder], list[Path]()
    while folders or links:
        current = folders.pop() if folders else links.pop(0)
        status = current.stat()
        if (status.st_dev, status.st_ino) in known:
            continue
        known.add((status.st_dev, status.st_ino))
        with os.scandir(current) as entries:
            below = sorted(entries, key=lambda entry: entry.name)
        names = {entry.name for entry in below}
        unlisted = _datasets_unlisted(
            names, current.as_posix(), lambda folder=current: (folder / _STATE).read_bytes()
        )
        for entry in below:
            path = current / entry.name
            if entry.is_dir() and not entry.name.startswith("."):
                (links if entry.is_symlink() else folders).append(path)
            else:
                yield _below(path, source, unlisted.get(entry.name))


def _below(path: Path, source: str, skipped: str | None) -> _Place:
    if path.name.startswith("."):
        skipped = "hidden"
    elif not path.is_file():
        skipped = "broken link" if path.is_symlink() else "no regular file"
    if skipped:
        return _Place(path.as_posix(), 0, "", source, skipped)
    return _place(path, source)


def _place(path: Path, source: str) -> _Place:
    status = path.stat()
    return _Place(path.as_posix(), status.st_size, _version(status), source)


def _expand_url(url: str) -> Iterator[_Place]:
    filesystem, path = filesystem_of(url)
    try:
        is_folder = filesystem.isdir(path)
        paths = sorted(filesystem.find(path) if is_folder else filesystem.glob(path))
        places = list(_url_places(filesystem, paths, path if is_folder else None))
        named = not is_folder and paths == [path]
    except (OSError, ImportError, ValueError) as error:
        raise _nothing(url, str(error) or type(error).__name__) from None
    if not places:
        raise _nothing(url, "nothing there")
    for place in places:
        yield place._replace(uri=url) if named else place


def _url_places(filesystem: Any, paths: list[str], folder: str | None) -> Iterator[_Place]:
    siblings: dict[str, set[str]] = {}
    for path in paths:
        siblings.setdefault(path.rpartition("/")[0], set()).add(path.rpartition("/")[2])
    unlisted = {
        above: _datasets_unlisted(
            names, above, lambda above=above: filesystem.cat_file(f"{above}/{_STATE}")
        )
        for above, names in siblings.items()
        if folder is not None
    }
    source = PurePosixPath(folder).name if folder is not None else ""
    for path in paths:
        above, _, name = path.rpartition("/")
        skipped = unlisted.get(above, {}).get(name)
        hidden = folder is not None and any(
            part.startswith(".") for part in path[len(folder) :].split("/")
        )
        if filesystem.isdir(path):
            continue
        uri = filesystem.unstrip_protocol(path)
        size, version = int(filesystem.size(path) or 0), str(filesystem.ukey(path))
        why = "hidden" if hidden else skipped
        yield _Place(uri, size, version, source or _stem(name), why)


def _datasets_unlisted(names: set[str], folder: str, state: Any) -> dict[str, str]:
    """Files of a `datasets` folder that hold no records, or those of another state of it.

    Args:
        names: The names in the folder.
        folder: How an error names it.
        state: Reads its `state.json`.
    """
    own = names & _DATASETS
    if not own:
        return {}
    skipped = dict.fromkeys(own, "about a dataset")
    tables = {name for name in names if name.endswith(".arrow")}
    listed = _listed(state(), folder) if _STATE in names else None
    if listed is None:
        cached = {name for name in tables if name.startswith("cache-")}
    else:
        cached = tables - listed
        if missing := sorted(listed - names):
            raise InputError(
                f"dataset {folder}",
                expected=f"{missing[0]}, which its {_STATE} lists",
                found="no such file",
                remedy="copy the whole dataset, or name the .arrow files themselves",
            )
    return skipped | dict.fromkeys(cached, "cached by datasets")


def _listed(data: bytes, folder: str) -> set[str] | None:
    """The files that make up a saved dataset, or None when `state.json` is of somebody else."""
    try:
        state = json.loads(data)
        listed = {str(one["filename"]) for one in state["_data_files"]}
        indices = state.get("_indices_data_files")
    except (ValueError, KeyError, TypeError, AttributeError):
        return None
    if indices:
        raise InputError(
            f"dataset {folder}",
            expected="a dataset whose rows are all its own",
            found=f"a selection of rows, by {_STATE}",
            remedy="save it again after flatten_indices()",
        )
    return listed


def _stem(uri: str) -> str:
    name = PurePosixPath(uri).name
    for suffix in (*COMPRESSED, *known_suffixes()):
        if name.lower().endswith(suffix) and len(name) > len(suffix):
            name = name[: -len(suffix)]
    return name


def _require_utf8(uri: str) -> None:
    try:
        uri.encode()
    except UnicodeEncodeError:
        raise InputError(
            f"corpus file {uri}",
            expected="a name in UTF-8, since manifests record it",
            found="other bytes",
            remedy="rename it",
        ) from None


def _unknown_suffix(name: str) -> InputError:
    return InputError(
        f"corpus file {name}",
        expected=f"a name ending in {', '.join(known_suffixes())}, plain or compressed "
        f"({', '.join(COMPRESSED)})",
        found="another suffix",
        remedy="rename it, or convert it to one of these formats",
    )


def _nothing(name: str, found: str) -> InputError:
    return InputError(
        f"input {name}",
        expected="a corpus file, a folder of them, or a glob pattern that matches some",
        found=found,
        remedy="correct the path",
    )
