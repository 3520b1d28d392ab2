"""Who signs a forget: operator and approver, encrypted keys, and nobody else later."""

from __future__ import annotations

from pathlib import Path

import pytest
from forget_world import BASE, Run, World

from govern.audit.report_file import read_report
from govern.audit.signing import generate_keys
from govern.audit.verify import verify_report

WHY = ("--request", "R-17", "--reason", "GDPR art. 17")
CHOICE = (*BASE, "--doc-id", "poem", "--out", "after", *WHY)
KEY = ("--key", "keys/govern-private.pem")


def test_operator_and_approver_both_sign(here: World, run: Run) -> None:
    approver = generate_keys(here.base / "approver")
    code, _, err = run(*CHOICE, *KEY, "--key", "approver/govern-private.pem")
    assert code == 0, err
    report = Path("after-report-R-17/REPORT.json")
    named = read_report(report).statement().predicate.operator.key_ids
    assert approver.key_id in named
    assert len(named) == len(read_report(report).envelope.signatures) == 2
    found = verify_report(report, model="after", ledger="ledger", public_key=approver.public)
    assert found.failed == ()


@pytest.mark.usefixtures("here")
def test_one_key_cannot_be_two_people(run: Run) -> None:
    code, _, err = run(*CHOICE, *KEY, *KEY)
    assert code == 1
    assert "expected one key, or several different ones, found the same key twice" in err
    assert not Path("after").exists()


def test_encrypted_keys_take_their_passphrases_in_order(
    here: World, run: Run, monkeypatch: pytest.MonkeyPatch
) -> None:
    generate_keys(here.base / "a", passphrase=b"first words")
    generate_keys(here.base / "b", passphrase=b"second words")
    monkeypatch.setenv("FIRST", "first words")
    monkeypatch.setenv("SECOND", "second words")
    keys = ("--key", "a/govern-private.pem", *KEY, "--key", "b/govern-private.pem")
    code, _, err = run(*CHOICE, *keys)
    assert code == 1
    assert "--passphrase-env: expected one for each of 2 encrypted keys, or one for all" in err
    code, _, err = run(*CHOICE, *keys, "--passphrase-env", "SECOND", "--passphrase-env", "FIRST")
    assert code == 1
    assert "a wrong passphrase" in err
    assert "words" not in err
    code, _, err = run(*CHOICE, *keys, "--passphrase-env", "FIRST", "--passphrase-env", "SECOND")
    assert code == 0, err
    envelope = read_report(Path("after-report-R-17/REPORT.json")).envelope
    assert len(envelope.signatures) == 3


@pytest.mark.usefixtures("here")
def test_a_passphrase_without_an_encrypted_key_is_refused(run: Run) -> None:
    code, _, err = run(*CHOICE, *KEY, "--passphrase-env", "HOME")
    assert code == 1
    assert "expected one for each of 0 encrypted keys" in err


def test_whoever_completes_a_signed_forget_has_its_keys(
    here: World, run: Run, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A kill after signing: another key would make a report that carries a stranger's."""
    import govern.forget.execute as execute

    generate_keys(here.base / "other")

    def killed(*_: object, **__: object) -> None:
        raise KeyboardInterrupt

    with monkeypatch.context() as patch:
        patch.setattr(execute, "issue", killed)
        with pytest.raises((KeyboardInterrupt, SystemExit, AssertionError)):
            assert run(*CHOICE, *KEY)[0] == 0
    code, _, err = run(*CHOICE, "--key", "other/govern-private.pem")
    assert code == 1
    assert "expected the keys that signed this statement already, found other ones" in err
    assert run(*CHOICE, *KEY)[0] == 0
