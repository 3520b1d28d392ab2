"""Files that tasks leave for other tasks: Parquet, a row group for each reader, published once.

A file's metadata says how many rows each group was to have, and what its maker counted, so that a
row which is lost on the way is missed by whoever reads it. Pages have checksums.

A task publishes by a rename, under a name that only it has until then, and only while its build is
the one that goes on there: a worker that is cut off from its driver may come back after another
build has begun in the same directory.
"""

from __future__ import annotations

import json
import os
import secrets
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pyarrow.parquet as pq

from manifests.errors import EngineError
from manifests.files import canonical_json, fsync_directory, naming

Indices = npt.NDArray[np.int64]
Columns = Mapping[str, npt.NDArray[Any]]
FENCE_NAME = "driver"
_KNOWN = b"govern"


@dataclass(frozen=True)
class Place:
    """The working folder of a build, and the mark that its driver set there.

    Attributes:
        work: Absolute path of `.work`, the same on every machine.
        mark: What the file `driver` there holds while this driver is the one that goes on.
    """

    work: Path
    mark: str

    def file(self, stage: str, number: int) -> Path:
        """The file that task `number` of a stage publishes."""
        return self.work / "stages" / stage / f"{number:05}.parquet"

    def require_mine(self) -> None:
        """Stop a task whose build is over.

        Raises:
            EngineError: Another driver goes on there, or the folder is not there at all.
        """
        path = self.work / FENCE_NAME
        try:
            found = path.read_text()
        except OSError:
            found = ""
        if found != self.mark:
            raise EngineError(
                f"working file {path}",
                expected="the mark of the build that this task belongs to",
                found="that of another build" if found else "no such file on this machine",
                remedy="let --out lie on one file system that all machines have at this path, and "
                "let one build write there at a time",
            )


@contextmanager
def publishing(place: Place, path: Path) -> Iterator[Path]:
    """A temporary name, which becomes `path` at the end.

    Raises:
        OSError: Of what was written; names the file.
    """
    temporary = path.with_name(f".{path.name}.{secrets.token_hex(4)}.tmp")
    try:
        with naming(path):
            yield temporary
            with temporary.open("rb") as file:
                os.fsync(file.fileno())
            place.require_mine()
            temporary.replace(path)
            fsync_directory(path.parent)
    finally:
        temporary.unlink(missing_ok=True)


def write_groups(
    place: Place,
    path: Path,
    columns: Columns,
    bounds: Indices | Sequence[int],
    counts: Mapping[str, Any],
) -> None:
    """Publish a file whose group g has the rows from `bounds[g]` up to `bounds[g + 1]`.

    Args:
        place: Where.
        path: The file.
        columns: Arrays of one length, int64, uint64 or float64.
        bounds: Ascending, from 0 to the number of rows.
        counts: What the task counted, as JSON.
    """
    rows = np.diff(np.asarray(bounds, dtype=np.int64)).tolist()
    known = canonical_json({"rows": rows, "counts": dict(counts)})
    schema = pa.schema(
        [(name, pa.from_numpy_dtype(values.dtype)) for name, values in columns.items()],
        metadata={_KNOWN: known},
    )
    with publishing(place, path) as temporary:
        with pq.ParquetWriter(
            temporary,
            schema,
            compression="none",
            use_dictionary=False,
            write_statistics=False,
            write_page_checksum=True,
        ) as writer:
            for begin, count in zip(bounds, rows, strict=False):
                if count:
                    part = {n: pa.array(v[begin : begin + count]) for n, v in columns.items()}
                    writer.write_table(pa.table(part).cast(schema), row_group_size=count)
        # What was written, and not what was meant.
        Groups(temporary, name=path).require_rows(sum(rows))


class Groups:
    """A published file.

    Args:
        path: The file.
        name: How an error names it, when it has not got its own name yet.

    Attributes:
        rows: int64, how many rows each group was to have.
        counts: What the task counted that made it.

    Raises:
        EngineError: It is damaged, or not there.
    """

    def __init__(self, path: Path, name: Path | None = None) -> None:
        self._name = name or path
        with self._intact():
            self._file = pq.ParquetFile(path, memory_map=True, page_checksum_verification=True)
            known: dict[str, Any] = json.loads(self._file.schema_arrow.metadata[_KNOWN])
        self.rows: Indices = np.array(known["rows"], dtype=np.int64)
        self.counts: Mapping[str, Any] = known["counts"]

    def __enter__(self) -> Groups:
        return self

    def __exit__(self, *_: object) -> None:
        self._file.close()

    def require_rows(self, expected: int) -> None:
        """Compare its rows with what they must be.

        Raises:
            EngineError: Rows are missing, or there are more.
        """
        found = self._file.metadata.num_rows
        if not found == expected == int(self.rows.sum()):
            raise self._lost(expected, found if found != expected else int(self.rows.sum()))

    def _lost(self, expected: int, found: int) -> EngineError:
        return EngineError(
            f"stage {self._name.parent.name}, {self._name}",
            expected=f"{expected} rows",
            found=f"{found}",
            remedy="remove this file and run it again with --resume; if it is so again, the "
            "disk or the worker is not to be trusted",
        )

    def read(self, group: int) -> dict[str, npt.NDArray[Any]]:
        """The columns of a group.

        Raises:
            EngineError: It is damaged, or has not the rows that it was published with.
        """
        place = self._places[group]
        with self._intact():
            # A group without rows is not in the file.
            table = (
                self._file.read_row_group(place, use_threads=False)
                if self.rows[group]
                else self._file.schema_arrow.empty_table()
            )
        if table.num_rows != self.rows[group]:
            raise self._lost(int(self.rows[group]), table.num_rows)
        return {name: table[name].to_numpy() for name in table.column_names}

    @cached_property
    def _places(self) -> list[int]:
        places: list[int] = (np.cumsum(self.rows > 0) - 1).tolist()
        return places

    @contextmanager
    def _intact(self) -> Iterator[None]:
        try:
            yield
        except (OSError, pa.ArrowException, KeyError, ValueError, TypeError) as error:
            missing = isinstance(error, FileNotFoundError)
            raise EngineError(
                f"stage {self._name.parent.name}, {self._name}",
                expected="the whole file that a task published there",
                found="no such file on this machine" if missing else str(error),
                remedy="let --out lie on one file system that all machines have at this path"
                if missing
                else "remove this file and run it again with --resume",
            ) from error


def once(path: Path, work: Callable[[], None]) -> None:
    """Do a task's work unless what it publishes is there."""
    if not path.exists():
        path.parent.mkdir(parents=True, exist_ok=True)
        work()
