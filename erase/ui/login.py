"""Names and passwords of those who may open the UI; without any, it asks nobody."""

from __future__ import annotations

import hmac
from collections.abc import Mapping
from pathlib import Path

from erase.errors import InputError

VARIABLE = "ERASE_LOGIN"


def read_login(path: Path | None, environment: Mapping[str, str]) -> dict[str, str] | None:
    """Passwords by name, from a file with lines `name:password`, else from ERASE_LOGIN; None where neither is given.

    Lines that are empty or begin with # say nothing. Raises `InputError`, which never shows a password.
    """
    if path is None:
        given = environment.get(VARIABLE)
        return None if given is None else _parsed(given.splitlines(), VARIABLE)
    try:
        lines = path.read_text(encoding="utf-8").splitlines()
    except (OSError, UnicodeDecodeError) as error:
        why = getattr(error, "strerror", None) or "not UTF-8"
        raise InputError(f"cannot read the login file {path}: {why}") from None
    return _parsed(lines, str(path))


def _parsed(lines: list[str], source: str) -> dict[str, str]:
    found: dict[str, str] = {}
    for number, line in enumerate(lines, 1):
        if not line.strip() or line.lstrip().startswith("#"):
            continue
        name, colon, password = line.strip().partition(":")
        if not colon or not name.strip() or not password:
            raise InputError(f"{source}: line {number} is not of the form name:password")
        if name.strip() in found:
            raise InputError(f"{source}: the name {name.strip()!r} stands twice")
        found[name.strip()] = password
    if not found:
        raise InputError(f"{source} names nobody; write a line name:password, or leave the login out")
    return found


def is_let_in(login: Mapping[str, str], name: str, password: str) -> bool:
    """Whether name and password belong together; takes as long for a wrong name as for a wrong password."""
    known = login.get(name)
    same = hmac.compare_digest((known if known is not None else "").encode(), password.encode())
    return same and known is not None
