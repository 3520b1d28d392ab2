"""Ed25519 keys and DSSE envelopes.

Signatures are Ed25519 (RFC 8032) over the pre-authentication encoding of DSSE v1.0
(github.com/secure-systems-lab/dsse, protocol.md). A key's id is the SHA-256 of its DER
SubjectPublicKeyInfo (RFC 5280 section 4.1.2.7), so an id names exactly one key. Several people can
sign one envelope, for instance an operator and an approver.
"""

from __future__ import annotations

import base64
import hashlib
import os
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from cryptography.exceptions import UnsupportedAlgorithm
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey, Ed25519PublicKey
from cryptography.hazmat.primitives.serialization import (
    BestAvailableEncryption,
    Encoding,
    KeySerializationEncryption,
    NoEncryption,
    PrivateFormat,
    PublicFormat,
    load_pem_private_key,
    load_pem_public_key,
)
from securesystemslib.dsse import Envelope as _Dsse
from securesystemslib.exceptions import UnverifiedSignatureError
from securesystemslib.signer import CryptoSigner, SSlibKey
from securesystemslib.signer import Signature as _Signature

from govern.audit.records import Record, Sha256, malformed
from manifests.errors import InputError, IntegrityError
from manifests.files import atomic_write

PRIVATE_NAME = "govern-private.pem"
PUBLIC_NAME = "govern-public.pem"


@dataclass(frozen=True, kw_only=True)
class Signature(Record):
    """One signature of an envelope: the id of its key and 64 bytes in base64."""

    keyid: Sha256
    sig: str


@dataclass(frozen=True, kw_only=True)
class Envelope(Record):
    """A DSSE envelope; `payload` is standard base64 (RFC 4648 section 4)."""

    payload: str
    payloadType: str  # noqa: N815  the name that DSSE prescribes
    signatures: tuple[Signature, ...]

    def payload_bytes(self, what: str = "envelope") -> bytes:
        """The signed bytes.

        Args:
            what: The envelope's name in a message.

        Raises:
            IntegrityError: The base64 is not the one encoding of its bytes.
        """
        return _decode(self.payload, f"{what} payload")


@dataclass(frozen=True, kw_only=True)
class PublicKey:
    """An Ed25519 public key with its id and its PEM (SubjectPublicKeyInfo)."""

    key_id: str
    pem: str


@dataclass(frozen=True, kw_only=True)
class PrivateKey:
    """An Ed25519 private key, able to sign; its representation shows only the public half."""

    public: PublicKey
    signer: CryptoSigner

    def __repr__(self) -> str:
        return f"PrivateKey(key_id={self.public.key_id})"


@dataclass(frozen=True, kw_only=True)
class KeyFiles:
    """Where `generate_keys` wrote the pair."""

    private: Path
    public: Path
    key_id: str


def generate_keys(directory: Path, *, passphrase: bytes | None = None) -> KeyFiles:
    """Write a new key pair: the private key readable by its owner only.

    Args:
        directory: Made if missing.
        passphrase: Encrypts the private key (PKCS #8); None leaves it in the clear.

    Raises:
        InputError: A key is there already (losing one would orphan every report it signed), or
            the passphrase is empty.
    """
    private_path, public_path = directory / PRIVATE_NAME, directory / PUBLIC_NAME
    if passphrase == b"":
        raise InputError(
            "passphrase", expected="some text", found="nothing", remedy="choose a passphrase"
        )
    for path in (private_path, public_path):
        if path.exists() or path.is_symlink():
            raise InputError(
                str(path),
                expected="no key yet",
                found="an existing file, which is never overwritten",
                remedy="choose another --out, or move the old key away (and keep it)",
            )
    key = Ed25519PrivateKey.generate()
    encryption: KeySerializationEncryption = (
        BestAvailableEncryption(passphrase) if passphrase else NoEncryption()
    )
    public = public_key_of(key.public_key())
    directory.mkdir(parents=True, exist_ok=True)
    private_pem = key.private_bytes(Encoding.PEM, PrivateFormat.PKCS8, encryption)
    _write_new_private(private_path, private_pem)
    atomic_write(public_path, public.pem.encode())
    return KeyFiles(private=private_path, public=public_path, key_id=public.key_id)


def new_private_key() -> PrivateKey:
    """A fresh key that lives in memory only."""
    return _private(Ed25519PrivateKey.generate())


def load_private_key(path: Path, *, passphrase: bytes | None = None) -> PrivateKey:
    """Read a private key that `generate_keys` (or `openssl genpkey -algorithm ed25519`) wrote.

    Raises:
        InputError: Not readable, not Ed25519, or the passphrase is missing or wrong.
    """
    data = _read(path)
    try:
        key = load_pem_private_key(data, passphrase)
    except TypeError:
        found = "an encrypted key" if passphrase is None else "a key that is not encrypted"
        remedy = "give the passphrase" if passphrase is None else "leave the passphrase out"
        raise InputError(
            str(path), expected="a key that fits", found=found, remedy=remedy
        ) from None
    except (ValueError, UnsupportedAlgorithm):
        raise _no_key(path, "private") from None
    if not isinstance(key, Ed25519PrivateKey):
        raise _no_key(path, "private")
    return _private(key)


def is_encrypted(path: Path) -> bool:
    """Whether a private key needs a passphrase (RFC 7468 section 11 names such a PEM file).

    Raises:
        InputError: Not readable.
    """
    return b"-----BEGIN ENCRYPTED PRIVATE KEY-----" in _read(path)


def load_public_key(path: Path) -> PublicKey:
    """Read a public key from a PEM file.

    Raises:
        InputError: Not readable, or not an Ed25519 public key in PEM.
    """
    try:
        key = load_pem_public_key(_read(path))
    except (ValueError, UnsupportedAlgorithm):
        raise _no_key(path, "public") from None
    if not isinstance(key, Ed25519PublicKey):
        raise _no_key(path, "public")
    return public_key_of(key)


def parse_public_key(pem: str, what: str) -> PublicKey:
    """Read a public key that travels inside a report or ledger: exactly its own PEM form.

    Raises:
        IntegrityError: Not an Ed25519 key, or other bytes than this module writes.
    """
    try:
        key = load_pem_public_key(pem.encode())
    except (ValueError, UnsupportedAlgorithm):
        raise malformed(what, "an Ed25519 public key in PEM", "something else") from None
    if not isinstance(key, Ed25519PublicKey):
        raise malformed(what, "an Ed25519 public key in PEM", "another kind of key")
    public = public_key_of(key)
    if public.pem != pem:
        raise malformed(what, "the key's one PEM form", "other bytes around the key")
    return public


def public_key_of(key: Ed25519PublicKey) -> PublicKey:
    """The public key with its id, SHA-256 of the DER SubjectPublicKeyInfo."""
    der = key.public_bytes(Encoding.DER, PublicFormat.SubjectPublicKeyInfo)
    pem = key.public_bytes(Encoding.PEM, PublicFormat.SubjectPublicKeyInfo)
    return PublicKey(key_id=hashlib.sha256(der).hexdigest(), pem=pem.decode())


def sign(payload: bytes, payload_type: str, keys: Sequence[PrivateKey]) -> Envelope:
    """Sign once with each key, in the order of their ids. Ed25519 is deterministic, so the same
    payload and keys give the same envelope.
    """
    if not keys:
        raise ValueError("an envelope needs at least one key")
    dsse = _Dsse(payload, payload_type, {})
    for key in sorted(keys, key=lambda k: k.public.key_id):
        dsse.sign(key.signer)
    return Envelope(
        payload=base64.b64encode(payload).decode(),
        payloadType=payload_type,
        signatures=tuple(
            Signature(keyid=s.keyid, sig=base64.b64encode(bytes.fromhex(s.signature)).decode())
            for s in dsse.signatures.values()
        ),
    )


def signers(envelope: Envelope, keys: Mapping[str, PublicKey], what: str) -> frozenset[str]:
    """The ids of the keys that signed; every signature must hold, not merely one.

    Args:
        envelope: The envelope.
        keys: Key id -> key: where to look for the keys, trusted or not.
        what: What is being verified, for the message.

    Raises:
        IntegrityError: No signature, one by an unknown key, one twice, or one that does not hold.
    """
    dsse = _Dsse(envelope.payload_bytes(what), envelope.payloadType, {})
    found: set[str] = set()
    for signature in envelope.signatures:
        if signature.keyid in found:
            raise _bad_signature(what, "two signatures by one key")
        if signature.keyid not in keys:
            raise _bad_signature(what, f"a signature by the unknown key {signature.keyid[:16]}…")
        key = load_pem_public_key(keys[signature.keyid].pem.encode())
        assert isinstance(key, Ed25519PublicKey)
        raw = _decode(signature.sig, f"{what} signature").hex()
        try:
            SSlibKey.from_crypto(key, keyid=signature.keyid).verify_signature(
                _Signature(signature.keyid, raw), dsse.pae()
            )
        except UnverifiedSignatureError:
            raise _bad_signature(what, f"a false one for key {signature.keyid[:16]}…") from None
        found.add(signature.keyid)
    if not found:
        raise _bad_signature(what, "no signature")
    return frozenset(found)


def _private(key: Ed25519PrivateKey) -> PrivateKey:
    public = public_key_of(key.public_key())
    lib_key = SSlibKey.from_crypto(key.public_key(), keyid=public.key_id)
    return PrivateKey(public=public, signer=CryptoSigner(key, lib_key))


def _decode(text: str, what: str) -> bytes:
    try:
        data = base64.b64decode(text, validate=True)
    except ValueError:
        raise malformed(what, "base64", "other characters") from None
    # Unused bits of the last character could differ unseen.
    if base64.b64encode(data).decode() != text:
        raise malformed(what, "canonical base64", "another encoding of the same bytes")
    return data


def _read(path: Path) -> bytes:
    try:
        return path.read_bytes()
    except OSError as error:
        raise InputError(
            str(path),
            expected="a key file",
            found=error.strerror or "an unreadable file",
            remedy="check the path, or make a key with `govern audit keygen --out DIR`",
        ) from None


def _write_new_private(path: Path, data: bytes) -> None:
    # O_EXCL: two processes cannot both believe that they made the key; 0600 from the first byte.
    descriptor = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600)
    with os.fdopen(descriptor, "wb") as file:
        file.write(data)
        file.flush()
        os.fsync(file.fileno())


def _no_key(path: Path, half: str) -> InputError:
    return InputError(
        str(path),
        expected=f"an Ed25519 {half} key in PEM",
        found="something else, or a wrong passphrase" if half == "private" else "something else",
        remedy="make a key with `govern audit keygen --out DIR`",
    )


def _bad_signature(what: str, found: str) -> IntegrityError:
    return IntegrityError(
        what,
        expected="a valid signature by each of its keys",
        found=found,
        remedy="obtain an unaltered copy from the signer",
    )
