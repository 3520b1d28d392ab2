"""Forget one sequence of a million, in place and out of place; 10,000 at once; verify everything.

    python benchmarks/forget_scale.py [--blocks 1000000] [--state none|tree|plain] [--work DIR]

Synthesises a run (one bank, its Merkle tree, sink map, record of training) and its manifest (one
document for each sequence), then runs each step in a process of its own: `govern.forget` as the
command calls it, without measuring behaviour. Prints seconds in all and by stage (imports are done
before and timed apart), and the largest resident memory of the process, imports included, with its
anonymous part at the end. `cp --reflink=auto` and `sha256sum` of the bank are timed beside. What
was written before is synced before each step, so that none pays for another; bars have verdicts.
With --work, what an earlier call synthesised there is used again. `--state` adds the optimizer
state of every block, with its Merkle tree or, as runs of old have it, without; `cp` and `sha256sum`
are given it too.
"""

from __future__ import annotations

import argparse
import json
import math
import os
import shutil
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterable, Iterator
from pathlib import Path

import numpy as np
import pyarrow as pa

from manifests import open_manifest
from manifests.files import canonical_json, sha256_file
from manifests.index import InputFile, Snapshot
from manifests.schema import TABLES, table_schema
from manifests.sequence_id import format_id
from manifests.writer import commit, make_index, write_table

LAYERS, BLOCK_SIZE, HIDDEN = 2, 4, 48
BLOCK_BYTES = LAYERS * 3 * BLOCK_SIZE * HIDDEN * 4
CHUNK = 10_000
NUM_PERM = 128
BANDS = 32


def sequence_ids(blocks: int) -> np.ndarray:
    """Ascending IDs, one for each block, spread over the whole range."""
    steps = np.random.default_rng(3).integers(1, 2**62 // blocks, size=blocks)
    return np.cumsum(steps)


def write_manifest(path: Path, ids: np.ndarray) -> None:
    """One document of one source for each sequence, each with a signature."""
    path.mkdir(parents=True)
    count = len(ids)
    random = np.random.default_rng(4)
    # Names in an order of their own: that of the IDs says nothing about that of the documents.
    names = pa.array([f"doc-{i:07d}" for i in range(count)])
    document_ids = random.permutation(ids)
    represented = np.argsort(document_ids)
    source = pa.array(["corpus"] * count)
    rows, ones = pa.array(np.arange(count)), pa.array(np.ones(count, np.int64))
    hashes = pa.FixedSizeBinaryArray.from_buffers(
        pa.binary(32), count, [None, pa.py_buffer(random.bytes(32 * count))]
    )
    columns = {
        "documents": {
            "source": source, "doc_id": names, "uri": pa.array(["corpus.jsonl"] * count),
            "row": rows, "start": rows, "end": rows, "n_bytes": ones, "n_words": ones,
            "sha256": hashes, "sequence_id": pa.array(document_ids),
            "is_representative": pa.array(np.ones(count, bool)),
            "similarity": pa.array(np.ones(count, np.float32)),
            "snapshot": pa.array(np.ones(count, np.int32)),
        },
        "sequences": {
            "sequence_id": pa.array(ids), "representative_source": source,
            "representative_doc_id": names.take(pa.array(represented)),
            "n_docs": ones, "n_sources": ones, "n_bytes": ones,
            "policy": pa.array(["private"] * count), "status": pa.array(["active"] * count),
            "first_snapshot": pa.array(np.ones(count, np.int32)),
            "reserved": pa.array(np.zeros(count, bool)),
        },
        "signatures": {
            "source": source, "doc_id": names,
            "signature": pa.FixedSizeBinaryArray.from_buffers(
                pa.binary(4 * NUM_PERM), count,
                [None, pa.py_buffer(random.bytes(4 * NUM_PERM * count))],
            ),
            "bands": pa.FixedSizeBinaryArray.from_buffers(
                pa.binary(4 * BANDS), count, [None, pa.py_buffer(random.bytes(4 * BANDS * count))]
            ),
        },
    }  # fmt: skip
    tables = {}
    for table in TABLES:
        schema = table_schema(table, num_perm=NUM_PERM, bands=BANDS)
        given = columns.get(table)
        content = (
            pa.Table.from_arrays([given[f.name].cast(f.type) for f in schema], schema=schema)
            if given
            else schema.empty_table()
        )
        tables[table] = write_table(path, table, content)
    snapshot = Snapshot(
        snapshot=1, inputs=(InputFile(uri="corpus.jsonl", bytes=count),), records=count,
        documents=count, rejects=0, content_digest="",
    )  # fmt: skip
    parameters = {"threshold": 0.7, "num_perm": NUM_PERM, "bands": BANDS, "ngram": 5, "seed": 1}
    commit(path, make_index(parameters=parameters, earlier=(), snapshot=snapshot, tables=tables))


def write_tensors(path: Path, tensors: dict[str, tuple[str, list[int], Iterable[bytes]]]) -> None:
    """A safetensors file of more than fits into memory: name -> dtype, shape, data in pieces."""
    from sinkmodel.bank_format import DTYPE_BYTES

    header, at = {}, 0
    for name, (dtype, shape, _) in tensors.items():
        end = at + DTYPE_BYTES[dtype] * math.prod(shape)
        header[name] = {"dtype": dtype, "shape": shape, "data_offsets": [at, end]}
        at = end
    text = json.dumps(header).encode()
    with path.open("wb") as file:
        file.write(len(text).to_bytes(8, "little") + text)
        for _, _, pieces in tensors.values():
            file.writelines(pieces)


def random_blocks(count: int, seed: int) -> Iterator[bytes]:
    random = np.random.default_rng(seed)
    for first in range(0, count, CHUNK):
        yield random.bytes(min(CHUNK, count - first) * BLOCK_BYTES)


def write_run(run: Path, ids: np.ndarray, manifest: Path, state: str) -> None:
    """One bank of random blocks, one for each sequence, and the optimizer state that is wanted."""
    from sinkmodel.allocation import SCHEMA, SinkMap
    from sinkmodel.bank_format import leaves_name, open_bank, open_state
    from sinkmodel.bank_tree import files_with_trees, stored_digests, write_leaves

    (run / "state").mkdir(parents=True)
    count, bank = len(ids), run / "sinks-00000.safetensors"
    shape = [count, LAYERS, 3, BLOCK_SIZE, HIDDEN]
    write_tensors(bank, {"sinks.banks.0": ("F32", shape, random_blocks(count, 5))})
    root = write_leaves(open_bank(bank))
    if state != "none":
        moments = run / "state" / bank.name
        numbers = np.arange(count, dtype="<i8").tobytes()
        write_tensors(
            moments,
            {
                "blocks": ("I64", [count], [numbers]),
                "steps": ("I64", [count], [numbers]),
                "exp_avg": ("F32", shape, random_blocks(count, 6)),
                "exp_avg_sq": ("F32", shape, random_blocks(count, 7)),
            },
        )
        if state == "tree":
            write_leaves(open_state(moments))
    columns = [
        pa.array(ids), pa.array(["private"] * count), pa.array(["active"] * count),
        pa.ListArray.from_arrays(np.arange(count + 1, dtype=np.int32),
                                 np.arange(count, dtype=np.int32)),
        pa.array(np.full(count, 100, np.int64)),
    ]  # fmt: skip
    SinkMap(pa.Table.from_arrays(columns, schema=SCHEMA)).save(run / "sink_map.parquet")
    (run / "config.json").write_bytes(canonical_json({"block_size": BLOCK_SIZE}))
    names = sorted(path for path in run.rglob("*") if path.is_file())
    files = {p.relative_to(run).as_posix(): sha256_file(p) for p in names if p != bank}
    for name, file in files_with_trees(run).items():
        files[name], files[leaves_name(name)] = stored_digests(file)
    opened = open_manifest(manifest)
    record = {
        "format": "memsinks-govern run", "format_version": 2, "seed": 0, "versions": {},
        "manifest": {"content_digest": opened.content_digest(), "snapshot": 1},
        "config": {"block_size": BLOCK_SIZE}, "files": files,
        "allocation": {"scheme": "synthetic", "seed": 0},
        "banks": [{"file": bank.name, "blocks": count, "root": root.hex()}],
    }  # fmt: skip
    (run / "training.json").write_bytes(canonical_json(record))


def forget_step(base: Path, first: int, count: int, out: str | None) -> dict[str, object]:
    """One request; the time is that of the call, imports are done before."""
    begin = time.perf_counter()
    import pyarrow.compute
    import pyarrow.parquet  # noqa: F401

    import sinkmodel.stored_map  # noqa: F401
    from govern.audit.signing import new_private_key
    from govern.forget import execute
    from govern.forget.request import ForgetRequest

    imports = time.perf_counter() - begin
    marks: list[tuple[str, float]] = []
    for module, name in (
        (execute, "read_checkpoints"), (execute, "select"), (execute, "make_plan"),
        (execute, "erase_locked"), (execute, "verify_erased"), (execute, "make_statement"),
        (execute, "sign_statement"), (execute, "issue"), (execute, "add_forgotten"),
        (execute, "write_report"), (execute, "render_report"),
    ):  # fmt: skip
        _timed(module, name, marks)
    chosen = np.linspace(first, len(sequence_ids(COUNT)) - 1, count).astype(int)
    ids = tuple(format_id(int(i)) for i in sequence_ids(COUNT)[chosen])
    request = ForgetRequest(
        kind="sequence-id", values=ids, reference=f"R-{first}", reason="bench", quotations=False
    )
    begin = time.perf_counter()
    execute.forget(
        base / "run",
        base / "manifest",
        request,
        out=None if out is None else base / out,
        in_place=out is None,
        key=new_private_key(),
        report_dir=base / f"report-{first}-{out}",
        ledger=base / f"ledger-{first}-{out}",
    )
    seconds = time.perf_counter() - begin
    page = sum(value for name, value in marks if name == "render_report")
    found = {"seconds": seconds, "without_page": seconds - page, "imports": imports}
    return {name: round(value, 3) for name, value in (found | dict(marks)).items()}


def _timed(module: object, name: str, marks: list[tuple[str, float]]) -> None:
    original = getattr(module, name)

    def call(*args: object, **kwargs: object) -> object:
        begin = time.perf_counter()
        result = original(*args, **kwargs)
        marks.append((name, time.perf_counter() - begin))
        return result

    setattr(module, name, call)


def scan_step(base: Path) -> dict[str, object]:
    """Hash every byte of the run, as `govern audit verify` does."""
    from govern.audit.checkpoint_files import scan_run

    begin = time.perf_counter()
    scan_run(base / "run")
    return {"seconds": round(time.perf_counter() - begin, 3)}


def verify_step(base: Path, report: str, run: str) -> dict[str, object]:
    """`govern audit verify` of a report, with checkpoint, manifest and ledger."""
    from govern.audit.verify import verify_report

    begin = time.perf_counter()
    found = verify_report(
        base / f"report-{report}" / "REPORT.json",
        model=base / run,
        manifest=base / "manifest",
        ledger=base / f"ledger-{report}",
    )
    failed = [f"{check.name}: {check.detail}" for check in found.failed]
    return {"seconds": round(time.perf_counter() - begin, 3), "failed": failed}


def memory() -> str:
    """Largest resident memory, and what is resident now: own pages, and mapped files."""
    status = dict(line.split(":", 1) for line in Path("/proc/self/status").read_text().splitlines())
    peak, own, mapped = (
        int(status[name].split()[0]) // 1024 for name in ("VmHWM", "RssAnon", "RssFile")
    )
    return f"peak {peak} MiB (at the end {own} own, {mapped} mapped files)"


def child(base: Path, *step: str) -> dict[str, float]:
    """Run a step in a process of its own, print its figures and return them."""
    command = [sys.executable, __file__, "--work", str(base), "--blocks", str(COUNT), "--step"]
    os.sync()  # Nobody forgets in the second in which the checkpoint was written.
    done = subprocess.run([*command, *step], check=True, capture_output=True, text=True)
    print(f"{' '.join(step):<28} {done.stdout.strip()}", flush=True)
    figures: dict[str, float] = json.loads(done.stdout[: done.stdout.index("}") + 1])
    return figures


def shell(name: str, command: str) -> float:
    """Run a command that is a peer, print its seconds and return them."""
    os.sync()
    begin = time.perf_counter()
    subprocess.run(command, shell=True, check=True, stdout=subprocess.DEVNULL)
    seconds = time.perf_counter() - begin
    print(f"{name:<28} {seconds:.3f} s", flush=True)
    return seconds


def verdict(what: str, found: float, bar: float, *, least: bool = False) -> None:
    """Say whether a figure holds its bar, which it must not exceed, or must at `least` reach."""
    met = found >= bar if least else found <= bar
    print(f"  {what}: {found:.2f}, bar {bar:g}: {'met' if met else 'MISSED'}", flush=True)


def main(base: Path, state: str) -> None:
    if not (base / "run" / "training.json").exists():
        ids = sequence_ids(COUNT)
        write_manifest(base / "manifest", ids)
        write_run(base / "run", ids, base / "manifest", state)
    bank = base / "run" / "sinks-00000.safetensors"
    files = [bank, *(base / "run" / "state").glob("*.safetensors")]
    print(f"{COUNT} blocks of {BLOCK_BYTES} bytes, bank {bank.stat().st_size:,} bytes, "
          f"{os.cpu_count()} cores, load {os.getloadavg()[0]:.1f}", flush=True)  # fmt: skip
    # Other sequences at each call: those of an earlier one are forgotten.
    start = int(time.time()) % (COUNT // 4)
    for step in range(3):
        found = child(base, "forget", str(start + step), "1")
        verdict("one sequence in place, seconds", found["seconds"], 1)
    verified = child(base, "verify", f"{start + 2}-None", "run")
    peer = shell("sha256sum", f"sha256sum {' '.join(map(str, files))}")
    verdict("speed of sha256sum", peer / verified["seconds"], 0.8, least=True)
    (base / "copy").mkdir(exist_ok=True)
    copy = " && ".join(
        f"cp --reflink=auto {file} {base / 'copy' / str(number)}"
        for number, file in enumerate(files)
    )
    for step in range(3, 6):
        peer = shell("cp --reflink=auto", copy)
        for file in (base / "copy").iterdir():
            file.unlink()
        found = child(base, "forget", str(start + step), "1", "after")
        shutil.rmtree(base / "after")
        synced = shell("cp, then sync of the copy", f"{copy} && sync {base / 'copy'}/*")
        for file in (base / "copy").iterdir():
            file.unlink()
        verdict("time of cp", found["seconds"] / peer, 1.3)
        verdict("time of cp and sync", found["seconds"] / synced, 1.3)
    child(base, "forget", str(start + 6), "100")
    child(base, "forget", str(start + 7), "1000")
    child(base, "forget", str(start + 8), str(min(10_000, COUNT // 100)))
    child(base, "scan")


if __name__ == "__main__":
    parser = argparse.ArgumentParser()
    parser.add_argument("--blocks", type=int, default=1_000_000)
    parser.add_argument("--state", choices=("none", "tree", "plain"), default="none")
    parser.add_argument("--work", type=Path)
    parser.add_argument("--step", nargs="*")
    options = parser.parse_args()
    COUNT = options.blocks
    if options.step:
        kind, *rest = options.step
        if kind == "scan":
            figures = scan_step(options.work)
        elif kind == "verify":
            figures = verify_step(options.work, *rest)
        else:
            figures = forget_step(options.work, int(rest[0]), int(rest[1]), *rest[2:] or [None])
        print(json.dumps(figures), memory())
    elif options.work:
        main(options.work, options.state)
    else:
        with tempfile.TemporaryDirectory() as folder:
            main(Path(folder), options.state)
