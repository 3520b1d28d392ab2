"""Keys and envelopes: what was signed holds, and nothing else."""

from __future__ import annotations

import base64
import hashlib
import stat
import subprocess
from dataclasses import replace
from pathlib import Path

import pytest
from cryptography.hazmat.primitives.asymmetric.ec import SECP256R1, generate_private_key
from cryptography.hazmat.primitives.serialization import Encoding, PublicFormat
from hypothesis import given, settings
from hypothesis import strategies as st

from govern.audit import signing
from govern.audit.signing import Envelope
from manifests.errors import InputError, IntegrityError

KEYS = [signing.new_private_key() for _ in range(3)]
PUBLIC = {key.public.key_id: key.public for key in KEYS}


def test_keygen_writes_a_private_key_for_its_owner_only(tmp_path: Path) -> None:
    files = signing.generate_keys(tmp_path / "keys")
    assert stat.S_IMODE(files.private.stat().st_mode) == 0o600
    private, public = signing.load_private_key(files.private), signing.load_public_key(files.public)
    assert private.public == public
    assert public.key_id == files.key_id
    assert "PRIVATE" not in repr(private)


def test_the_key_id_is_the_digest_that_openssl_gives(tmp_path: Path) -> None:
    files = signing.generate_keys(tmp_path)
    body = "".join(files.public.read_text().splitlines()[1:-1])
    assert files.key_id == hashlib.sha256(base64.b64decode(body)).hexdigest()


def test_keygen_never_overwrites(tmp_path: Path) -> None:
    files = signing.generate_keys(tmp_path)
    before = files.private.read_bytes()
    with pytest.raises(InputError, match="never overwritten"):
        signing.generate_keys(tmp_path)
    files.public.unlink()
    with pytest.raises(InputError, match="never overwritten"):
        signing.generate_keys(tmp_path)
    assert files.private.read_bytes() == before


def test_a_passphrase_is_needed_and_must_be_right(tmp_path: Path) -> None:
    files = signing.generate_keys(tmp_path, passphrase=b"correct horse")
    assert b"ENCRYPTED" in files.private.read_bytes()
    assert signing.load_private_key(files.private, passphrase=b"correct horse").public.key_id
    with pytest.raises(InputError, match="give the passphrase"):
        signing.load_private_key(files.private)
    with pytest.raises(InputError, match="a wrong passphrase"):
        signing.load_private_key(files.private, passphrase=b"wrong")
    with pytest.raises(InputError, match="choose a passphrase"):
        signing.generate_keys(tmp_path / "empty", passphrase=b"")
    plain = signing.generate_keys(tmp_path / "plain")
    with pytest.raises(InputError, match="leave the passphrase out"):
        signing.load_private_key(plain.private, passphrase=b"needless")


def test_what_is_not_an_ed25519_key_is_refused(tmp_path: Path) -> None:
    other = tmp_path / "ec.pem"
    ec_key = generate_private_key(SECP256R1()).public_key()
    other.write_bytes(ec_key.public_bytes(Encoding.PEM, PublicFormat.SubjectPublicKeyInfo))
    garbage = tmp_path / "garbage.pem"
    garbage.write_bytes(b"not a key")
    for path in (other, garbage):
        with pytest.raises(InputError, match="expected an Ed25519 public key"):
            signing.load_public_key(path)
        with pytest.raises(InputError, match="expected an Ed25519 private key"):
            signing.load_private_key(path)
    with pytest.raises(InputError, match="No such file"):
        signing.load_public_key(tmp_path / "missing.pem")


@given(st.binary(max_size=200), st.sets(st.sampled_from(range(3)), min_size=1))
def test_every_signer_is_found_again(payload: bytes, chosen: set[int]) -> None:
    keys = [KEYS[i] for i in chosen]
    envelope = signing.sign(payload, "text/plain", keys)
    assert envelope.payload_bytes() == payload
    assert signing.signers(envelope, PUBLIC, "x") == {key.public.key_id for key in keys}
    assert signing.sign(payload, "text/plain", keys[::-1]) == envelope


@settings(max_examples=200)
@given(st.data())
def test_one_changed_character_breaks_the_envelope(data: st.DataObject) -> None:
    envelope = signing.sign(b"payload of some length", "text/plain", KEYS[:2])
    value = envelope.to_dict()
    field = data.draw(st.sampled_from(["payload", "payloadType", "keyid", "sig"]))
    owner = value if field in value else data.draw(st.sampled_from(value["signatures"]))
    text = owner[field]
    at = data.draw(st.integers(0, len(text) - 1))
    letter = data.draw(st.sampled_from("abcXYZ019+/=-f").filter(lambda c: c != text[at]))
    owner[field] = text[:at] + letter + text[at + 1 :]
    with pytest.raises(IntegrityError):
        signing.signers(Envelope.from_dict(value), PUBLIC, "x")


def test_one_false_signature_among_true_ones_is_not_passed_over() -> None:
    good = signing.sign(b"a", "t", KEYS[:2])
    other = signing.sign(b"b", "t", KEYS[:2])
    mixed = replace(good, signatures=(good.signatures[0], other.signatures[1]))
    with pytest.raises(IntegrityError, match="a false one for key"):
        signing.signers(mixed, PUBLIC, "x")
    twice = replace(good, signatures=(good.signatures[0],) * 2)
    with pytest.raises(IntegrityError, match="two signatures by one key"):
        signing.signers(twice, PUBLIC, "x")
    with pytest.raises(IntegrityError, match="no signature"):
        signing.signers(replace(good, signatures=()), PUBLIC, "x")
    with pytest.raises(IntegrityError, match="unknown key"):
        signing.signers(good, {}, "x")
    with pytest.raises(ValueError, match="at least one key"):
        signing.sign(b"a", "t", [])


def test_a_key_in_a_report_has_one_spelling() -> None:
    pem = KEYS[0].public.pem
    assert signing.parse_public_key(pem, "x") == KEYS[0].public
    for other in (pem + "\n", "note\n" + pem, pem.replace("\n", "\r\n"), "nothing"):
        with pytest.raises(IntegrityError):
            signing.parse_public_key(other, "x")


def test_openssl_accepts_our_signature(tmp_path: Path) -> None:
    """A tool that we did not write verifies the same bytes (DSSE's PAE over the payload)."""
    payload, kind = b'{"a":1}', "application/json"
    envelope = signing.sign(payload, kind, KEYS[:1])
    pae = b"DSSEv1 %d %b %d %b" % (len(kind), kind.encode(), len(payload), payload)
    (tmp_path / "pae").write_bytes(pae)
    (tmp_path / "sig").write_bytes(base64.b64decode(envelope.signatures[0].sig))
    (tmp_path / "pub").write_text(KEYS[0].public.pem)
    command = ["openssl", "pkeyutl", "-verify", "-pubin", "-inkey", "pub", "-rawin"]
    command += ["-in", "pae", "-sigfile", "sig"]
    try:
        done = subprocess.run(command, cwd=tmp_path, capture_output=True, text=True, check=False)
    except FileNotFoundError:
        pytest.skip("no openssl program here")
    assert done.returncode == 0, done.stderr
    assert "Successfully" in done.stdout
