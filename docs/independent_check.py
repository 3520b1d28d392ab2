"""Check a forget report without memsinks-govern: Python's standard library and `cryptography` only.

    python independent_check.py REPORT.json RUN_DIRECTORY PUBLIC_KEY.pem

Follows docs/verify.md. Prints one line for each finding and exits 3 if any of them failed. Left out
is what docs/verify.md marks with a star: it needs Parquet, or the ledger and manifest themselves.
"""
# ruff: noqa: D103, T201

import base64
import hashlib
import hmac
import json
import re
import sys
from pathlib import Path

from cryptography.exceptions import InvalidSignature
from cryptography.hazmat.primitives import serialization

FAULTS = []


def check(name, holds, detail=""):
    print("passed" if holds else "FAILED", name, detail)
    if not holds:
        FAULTS.append(name)


def sha256(data):
    return hashlib.sha256(data).hexdigest()


def compact(value):
    """RFC 8785, sufficient here: these objects hold only strings, and their keys are ASCII."""
    return json.dumps(value, sort_keys=True, separators=(",", ":"), ensure_ascii=False).encode()


def key_of(pem):
    key = serialization.load_pem_public_key(pem)
    der = key.public_bytes(
        serialization.Encoding.DER, serialization.PublicFormat.SubjectPublicKeyInfo
    )
    return sha256(der), key


def signed_by(envelope, keys):
    """Ids of the keys with a valid signature over DSSE's pre-authentication encoding."""
    payload, kind = base64.b64decode(envelope["payload"]), envelope["payloadType"].encode()
    pae = b"DSSEv1 %d %b %d %b" % (len(kind), kind, len(payload), payload)
    found = set()
    for signature in envelope["signatures"]:
        try:
            keys[signature["keyid"]].verify(base64.b64decode(signature["sig"]), pae)
            found.add(signature["keyid"])
        except (InvalidSignature, KeyError):
            check("signature", False, signature["keyid"])
    return found


def leaf(data):
    return hashlib.sha256(b"\x00" + data).digest()


def node(left, right):
    return hashlib.sha256(b"\x01" + left + right).digest()


def tree(leaves):
    """All nodes, level by level (RFC 6962 section 2.1): a last odd node rises unchanged."""
    nodes = list(leaves)
    while len(leaves) > 1:
        pairs = [node(*leaves[i : i + 2]) for i in range(0, len(leaves) - 1, 2)]
        leaves = pairs + leaves[len(pairs) * 2 :]
        nodes += leaves
    return nodes


def root(leaves):
    return tree(leaves)[-1]


def root_from_path(entry, index, size, path):
    """RFC 9162 section 2.1.3.2."""
    result, last = leaf(entry) if 0 <= index < size else b"", size - 1
    for sibling in path:
        if index % 2 or index == last:
            result = node(sibling, result)
            while index and index % 2 == 0:
                index, last = index >> 1, last >> 1
        else:
            result = node(result, sibling)
        index, last = index >> 1, last >> 1
    return result if last == 0 else b""


def keyed(key, label, *parts):
    pieces = [b"memsinks-govern keyed hash v1", label.encode(), *(p.encode() for p in parts)]
    message = b"".join(len(p).to_bytes(8, "big") + p for p in pieces)
    return hmac.new(key, message, hashlib.sha256).hexdigest()


def check_disclosure(disclosure, predicate):
    check("disclosure digest", sha256(compact(disclosure)) == predicate["disclosure_sha256"])
    key = bytes.fromhex(disclosure["key"])
    check("query", keyed(key, "query", disclosure["query"]) == predicate["selection"]["query_hmac"])
    for d in disclosure["documents"]:
        holds = keyed(key, "document", d["source"], d["doc_id"]) == d["document_hmac"]
        check("document", holds, ascii(d["doc_id"]))


def digest(run, name):
    """A file's digest under its algorithm; those of a bank and of a tree follow from the root."""
    data = (run / name).read_bytes()
    bank = (run / name).with_suffix(".safetensors")
    if "/" in name or not re.fullmatch(r"sinks-[0-9]{5}\.(safetensors|leaves)", name):
        return {"sha256": sha256(data)}
    header, rows = blocks_of(bank)
    leaves = [leaf(row) for row in rows]
    if name.endswith(".leaves"):
        whole = data == b"".join(tree(leaves))
        return {"merkleRoot": root(leaves).hex()} if whole else {"sha256": sha256(data)}
    return {"bankSha256": sha256(header + root(leaves))}


def blocks_of(bank):
    """Header bytes and blocks of a bank: slices along the first axis of its one tensor."""
    data = bank.read_bytes()
    start = 8 + int.from_bytes(data[:8], "little")
    header = json.loads(data[8:start])
    (tensor,) = (header[name] for name in header if name != "__metadata__")
    assert tensor["data_offsets"] == [0, len(data) - start], "one tensor that ends with the file"
    size = (len(data) - start) // tensor["shape"][0]
    return data[:start], [data[at : at + size] for at in range(start, len(data), size)]


def check_run(run, statement):
    subject = {s["name"]: s["digest"] for s in statement["subject"]}
    ignored = {".lock", "REPORT.json", "REPORT.html"}
    names = {p.relative_to(run).as_posix() for p in run.rglob("*") if not p.is_dir()} - ignored
    check("file list", names == set(subject), str(sorted(names ^ set(subject))))
    for name in sorted(names & set(subject)):
        check("digest", digest(run, name) == subject[name], name)
    predicate, first_block, zero = statement["predicate"], 0, set()
    record = json.loads((run / "training.json").read_bytes())
    trained = {b["file"]: b for b in record["banks"]}
    for bank in sorted(predicate["integrity"]["banks"], key=lambda b: b["file"]):
        header, rows = blocks_of(run / bank["file"])
        leaves = [leaf(row) for row in rows]
        holds = len(rows) == bank["blocks"] and root(leaves).hex() == bank["root_after"]
        check("root after", holds, bank["file"])
        pinned = sha256(header + bytes.fromhex(trained[bank["file"]]["root"]))
        check("header of training", pinned == record["files"][bank["file"]], bank["file"])
        zero |= {first_block + i for i, row in enumerate(rows) if not any(row)}
        first_block += len(rows)
        for change in bank["changed"]:
            leaves[change["row"]] = bytes.fromhex(change["leaf_before"])
        check("root before", root(leaves).hex() == bank["root_before"], bank["file"])
        # After an earlier erase the two differ; docs/verify.md, section 6, follows the ledger then.
        same = trained[bank["file"]]["root"] == bank["root_before"]
        check("root of training", same, bank["file"])
    stated = predicate["mechanism"]["allocation"]["sink_map_sha256"]
    check("sink map of training", sha256((run / "sink_map.parquet").read_bytes()) == stated)
    lines = (run / "forgotten.txt").read_text().splitlines(keepends=True)
    holds = lines == sorted(set(lines)) and all(
        re.fullmatch("sq-[0-9a-f]{16}\\n", i) for i in lines
    )
    check("list of forgotten IDs", holds)
    missing = {f"{i}\n" for i in predicate["selection"]["sequence_ids"]} - set(lines)
    check("selected IDs are forgotten", not missing, str(sorted(missing)))
    planned = {b for s in predicate["blocks"]["sequences"] for b in s["exclusive"] + s["shared"]}
    check("erased blocks are zero", planned <= zero, str(sorted(planned - zero)))


def main(report_path, run, public_key):
    report = json.loads(Path(report_path).read_bytes())
    keys = dict(key_of(pem.encode()) for pem in report["public_keys"])
    trusted, _ = key_of(Path(public_key).read_bytes())
    statement = json.loads(base64.b64decode(report["envelope"]["payload"]))
    signers = signed_by(report["envelope"], keys)
    check("signed by the trusted key", trusted in signers, trusted)
    check("all named keys signed", signers >= set(statement["predicate"]["operator"]["key_ids"]))
    entry, receipt = compact(report["envelope"]), report["ledger"]
    head = json.loads(base64.b64decode(receipt["tree_head"]["payload"]))
    path = [bytes.fromhex(h) for h in receipt["inclusion_path"]]
    found = root_from_path(entry, receipt["entry_index"], receipt["tree_size"], path)
    holds = found.hex() == head["root"] and receipt["tree_size"] == head["tree_size"]
    check("ledger inclusion", holds and sha256(entry) == receipt["entry_sha256"])
    check("tree head", bool(signed_by(receipt["tree_head"], keys) & signers), head["time"])
    if report["disclosure"] is not None:
        check_disclosure(report["disclosure"], statement["predicate"])
    check_run(Path(run), statement)
    return 3 if FAULTS else 0


if __name__ == "__main__":
    sys.exit(main(*sys.argv[1:4]))
