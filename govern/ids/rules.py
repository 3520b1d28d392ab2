"""The rules that made a manifest's signatures and shingles: whether this release still has them."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from manifests.errors import ManifestError
from manifests.reader import Manifest

# What must be equal for two signatures, or two shingle sets, to be comparable.
_SKETCH = ("ngram", "num_perm", "seed", "scheme", "token_hash", "tokenizer")


def require_rules(manifest: Manifest) -> None:
    """Refuse a manifest whose signatures this release would compute otherwise.

    Raises:
        ManifestError: Its tokenizer (which names the Unicode version), token hash or scheme is
            another.
    """
    from govern.ids.minhash import SCHEME
    from govern.ids.shingle import TOKEN_HASH, TOKENIZER

    mine = {"tokenizer": TOKENIZER, "token_hash": TOKEN_HASH, "scheme": SCHEME}
    for name, expected in mine.items():
        if manifest.parameters[name] != expected:
            raise ManifestError(
                f"signatures of manifest {manifest.path}",
                expected=f"{name} {expected}",
                found=f"{name} {manifest.parameters[name]}",
                remedy="use the release and Python version that built it, or rebuild it",
            )


def require_comparable(manifest: Manifest, parameters: Mapping[str, Any]) -> None:
    """Refuse a manifest whose signatures cannot be compared with ones made by `parameters`.

    Raises:
        ManifestError: A rule differs, or the manifest has no shingles.
    """
    for name in _SKETCH:
        if manifest.parameters[name] != parameters[name]:
            raise ManifestError(
                f"manifest {manifest.path}",
                expected=f"{name} {parameters[name]}, so that texts can be compared",
                found=f"{name} {manifest.parameters[name]}",
                remedy="use the same options and release for both",
            )
    require_shingles(manifest)


def require_shingles(manifest: Manifest) -> None:
    """Refuse a manifest without the shingles of its documents.

    Raises:
        ManifestError: It has none, or not those of all documents.
    """
    if manifest.rows("shingles") != manifest.rows("documents"):
        raise ManifestError(
            f"manifest {manifest.path}",
            expected=f"the shingles of all {manifest.rows('documents')} documents",
            found=f"{manifest.rows('shingles')} rows",
            remedy="rebuild it with `govern ids build`",
        )
