from __future__ import annotations

from pathlib import Path

import pytest

from logos_gateway.tokens import Scope, TokenFileError, load_tokens, parse_tokens

ONE, TWO, THREE = "a" * 16, "b" * 32, "c" * 40


def test_scopes_of_tokens() -> None:
    tokens = parse_tokens(f"# people\n\n{ONE} apps\n{TWO} apps,kernel\n {THREE}   admin \n")
    assert len(tokens) == 3
    assert tokens.scopes_of(ONE) == frozenset({Scope.APPS})
    assert tokens.scopes_of(TWO) == frozenset({Scope.APPS, Scope.KERNEL})
    assert tokens.scopes_of(THREE) == frozenset(Scope)
    for unknown in ("", "a" * 15, ONE + "a", "é" * 20):
        assert tokens.scopes_of(unknown) is None


@pytest.mark.parametrize(
    ("text", "why"),
    [
        ("", "no token"),
        ("# nothing\n", "no token"),
        (ONE, "line 1"),
        (f"{ONE} apps kernel", "line 1"),
        (f"{ONE} apps\n{TWO} root", "line 2.*apps, kernel, admin"),
        ("short apps", "16 to 512"),
        (f"{ONE} apps\n{ONE} kernel", "line 2.*twice"),
    ],
)
def test_a_bad_file_is_refused_without_showing_a_token(text: str, why: str) -> None:
    with pytest.raises(TokenFileError, match=why) as refused:
        parse_tokens(text)
    assert ONE not in str(refused.value)


def test_a_file_that_others_can_read_is_refused(tmp_path: Path) -> None:
    path = tmp_path / "tokens"
    path.write_text(f"{ONE} apps\n")
    for mode in (0o604, 0o640, 0o602):
        path.chmod(mode)
        with pytest.raises(TokenFileError, match="chmod 600"):
            load_tokens(str(path))
    path.chmod(0o600)
    assert load_tokens(str(path)).scopes_of(ONE) == frozenset({Scope.APPS})
    with pytest.raises(TokenFileError, match="No such file"):
        load_tokens(str(tmp_path / "missing"))
