"""Check a forget report without memsinks-govern: Python's standard library and `cryptography` only.

    python independent_check.py REPORT.json RUN_DIRECTORY PUBLIC_KEY.pem

Follows docs/verify.md. Prints one line for each finding and exits 3 if any of them failed. Left out
is what docs/verify.md marks with a star: it needs Parquet, or the ledger and manifest themselves,
or rules that are long to write down.
"""
# ruff: noqa: D103, T201

import base64
import hashlib
import hmac
import json
import re
import sys
from pathlib import Path

from cryptography.hazmat.primitives.serialization import Encoding, PublicFormat, load_pem_public_key

FAULTS = []


def check(name, holds, detail=""):
    print("passed" if holds else "FAILED", name, detail)
    FAULTS.extend([] if holds else [name])


# --- hashes, signatures, trees -------------------------------------------------------------------


def sha256(*parts):
    return hashlib.sha256(b"".join(parts)).digest()


def canonical(value):
    """RFC 8785, sufficient here: these objects hold strings and integers, their keys are ASCII."""
    return json.dumps(value, sort_keys=True, separators=(",", ":"), ensure_ascii=False).encode()


def key_id(key):
    return sha256(key.public_bytes(Encoding.DER, PublicFormat.SubjectPublicKeyInfo)).hex()


def opened(envelope, keys):
    """What a DSSE envelope holds, and the ids of the keys that signed it; all must have."""
    payload, kind = base64.b64decode(envelope["payload"]), envelope["payloadType"].encode()
    signed = b"DSSEv1 %d %b %d %b" % (len(kind), kind, len(payload), payload)
    for signature in envelope["signatures"]:
        keys[signature["keyid"]].verify(base64.b64decode(signature["sig"]), signed)
    return json.loads(payload), sorted(signature["keyid"] for signature in envelope["signatures"])


def keyed(key, *parts, domain="memsinks-govern keyed hash v1"):
    framed = (len(p.encode()).to_bytes(8, "big") + p.encode() for p in (domain, *parts))
    return hmac.digest(bytes.fromhex(key), b"".join(framed), "sha256").hex()


def tree(leaves):
    """All nodes up to the root, level by level (RFC 6962, 2.1); a last odd node rises unchanged."""
    pairs = [sha256(b"\x01", *leaves[i : i + 2]) for i in range(0, len(leaves) - 1, 2)]
    return leaves + tree(pairs + leaves[len(pairs) * 2 :]) if pairs else leaves


def root_by_path(leaf, index, size, path):
    """The root that an audit path (RFC 6962, 2.1.1) leads to; its last hash is nearest to it."""
    if size <= 1 or not path:
        return leaf if (index, size, path) == (0, 1, []) else b""
    half = 1 << ((size - 1).bit_length() - 1)
    if index < half:
        return sha256(b"\x01", root_by_path(leaf, index, half, path[:-1]), path[-1])
    return sha256(b"\x01", path[-1], root_by_path(leaf, index - half, size - half, path[:-1]))


# --- docs/verify.md, 1 to 5 ----------------------------------------------------------------------


def check_report(data, trusted):
    """The signatures, the ledger's receipt and the names; returns the statement."""
    report = json.loads(data)
    check("canonical form", canonical(report) == data)
    keys = {key_id(k): k for k in (load_pem_public_key(p.encode()) for p in report["public_keys"])}
    statement, signers = opened(report["envelope"], keys)
    predicate, disclosure = statement["predicate"], report["disclosure"]
    check("each key signed", signers == sorted(keys) == sorted(predicate["operator"]["key_ids"]))
    check("signed by the trusted key", key_id(trusted) in signers, key_id(trusted))
    receipt, entry = report["ledger"], canonical(report["envelope"])
    head, (head_signer,) = opened(receipt["tree_head"], keys)
    check("tree head", head_signer in signers, head["time"])
    check("ledger entry", sha256(entry).hex() == receipt["entry_sha256"])
    path, size = [bytes.fromhex(h) for h in receipt["inclusion_path"]], receipt["tree_size"]
    root = root_by_path(sha256(b"\x00", entry), receipt["entry_index"], size, path)
    check("ledger inclusion", (root.hex(), size) == (head["root"], head["tree_size"]))
    if disclosure is not None:
        check("disclosure", sha256(canonical(disclosure)).hex() == predicate["disclosure_sha256"])
        key, query = disclosure["key"], disclosure["query"]
        check("query", keyed(key, "query", query) == predicate["selection"]["query_hmac"])
        for d in disclosure["documents"]:
            found = keyed(key, "document", d["source"], d["doc_id"])
            check("document", found == d["document_hmac"], ascii(d["doc_id"]))
    return statement


# --- docs/verify.md, 6 ---------------------------------------------------------------------------


def state_rows(data):
    """The bytes before the rows of a state file, and each row: its slice of every other tensor."""
    start = 8 + int.from_bytes(data[:8], "little")
    header = {k: v for k, v in json.loads(data[8:start]).items() if k != "__metadata__"}
    rows, end = header["blocks"]["shape"][0], start + header.pop("blocks")["data_offsets"][1]
    parts = sorted(tensor["data_offsets"] for tensor in header.values())
    own = [(data[start + begin : start + end], (end - begin) // rows) for begin, end in parts]
    return data[:end], [b"".join(t[r * n : r * n + n] for t, n in own) for r in range(rows)]


def block_file(files, name, header, rows):
    """The leaves and root of a bank or its state; the digests of the file and of its tree."""
    leaves, tree_name = [sha256(b"\x00", row) for row in rows], name[:-11] + "leaves"
    nodes = tree(leaves)
    found = {name: {"bankSha256": sha256(header, nodes[-1]).hex()}}
    if files.get(tree_name) == b"".join(nodes):
        found[tree_name] = {"merkleRoot": nodes[-1].hex()}
    return leaves, nodes[-1], found


def check_run(run, statement):
    """The files, the banks and the lists of a run directory."""
    predicate, aside = statement["predicate"], {".lock", "REPORT.json", "REPORT.html"}
    paths = {path for path in run.rglob("*") if not path.is_dir()} - {run / name for name in aside}
    check("no links", not any(path.is_symlink() for path in run.rglob("*")))
    files = {path.relative_to(run).as_posix(): path.read_bytes() for path in paths}
    found = {name: {"sha256": sha256(data).hex()} for name, data in files.items()}
    trained, blocks = json.loads(files["training.json"])["files"], []
    for bank in sorted(predicate["integrity"]["banks"], key=lambda bank: bank["file"]):
        name = bank["file"]
        start = 8 + int.from_bytes(files[name][:8], "little")
        header, data = files[name][:start], files[name][start:]
        size = len(data) // bank["blocks"]
        own = [data[at : at + size] for at in range(0, len(data), size)]
        leaves, root, digests = block_file(files, name, header, own)
        found |= digests
        check("root after", root.hex() == bank["root_after"], name)
        before = {change["row"]: bytes.fromhex(change["leaf_before"]) for change in bank["changed"]}
        old = tree([before.get(row, leaf) for row, leaf in enumerate(leaves)])
        check("root before", old[-1].hex() == bank["root_before"], name)
        # After an earlier erase it is another root; the ledger leads to it (docs/verify.md, 6.4).
        check("header and root of training", sha256(header, old[-1]).hex() == trained[name], name)
        blocks += own
    for name in [name for name in files if re.fullmatch(r"state/sinks-\d{5}\.leaves", name)]:
        state = name[:-6] + "safetensors"
        found |= block_file(files, state, *state_rows(files[state]))[2]
    subjects = {s["name"]: s["digest"] for s in statement["subject"]}
    for name in sorted(found.keys() | subjects.keys()):
        check("digest", found.get(name) == subjects.get(name), name)
    planned = {b for s in predicate["blocks"]["sequences"] for b in s["exclusive"] + s["shared"]}
    left = sorted(block for block in planned if any(blocks[block]))
    check("erased blocks are zero", not left, str(left))
    stated, ids = predicate["mechanism"]["allocation"], files["forgotten.txt"].decode().splitlines()
    check("sink map", found["sink_map.parquet"] == {"sha256": stated["sink_map_sha256"]})
    check("forgotten IDs", ids == sorted({f"sq-{int(i[3:], 16):016x}" for i in ids}))
    check("selected IDs are forgotten", set(predicate["selection"]["sequence_ids"]) <= set(ids))


if __name__ == "__main__":
    try:
        report, run, key = map(Path, sys.argv[1:])
        check_run(run, check_report(report.read_bytes(), load_pem_public_key(key.read_bytes())))
    except Exception as error:  # noqa: BLE001  what cannot be read proves nothing
        check("readable evidence", False, repr(error))
    sys.exit(3 if FAULTS else 0)
