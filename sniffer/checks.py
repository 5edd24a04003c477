"""Checks of values that options of several places share: URLs, addresses, files, secrets.

Each returns the canonical value, or raises ValueError with the rest of a sentence that begins with the option's name.
"""

from __future__ import annotations

import os
import re
from typing import Final
from urllib.parse import urlsplit

from sniffer.options import Option, Secret, quote

MOST_SECRET_FILE: Final = 64 << 10
"""Bytes of a file that holds a secret, at the most."""
MOST_CA_FILE: Final = 16 << 20
"""Bytes of a file that holds certificates, at the most."""

File = Option[str | os.PathLike[str] | None, str | None]
"""An option that names a file or a directory."""


def check_url(value: object) -> str | None:
    """An absolute http or https URL without user info, its scheme in lower case; None is allowed.

    Messages never quote the URL: what was mistyped may hold a password.
    """
    if value is None:
        return None
    if not isinstance(value, str):
        raise ValueError("must be an absolute http or https URL")
    url = value.strip()
    if re.search(r"[\s\x00-\x1f\x7f]", url):
        raise ValueError("must be an absolute http or https URL, without blanks or control characters")
    try:
        parts = urlsplit(url)
        host, port = parts.hostname or "", parts.port
    except ValueError:
        raise ValueError("must be an absolute http or https URL: its host or port cannot be read") from None
    if parts.scheme not in ("http", "https"):  # urlsplit gives it in lower case
        raise ValueError("must be an absolute http or https URL")
    if not host:
        raise ValueError("must name a host")
    if not _is_host(host):
        raise ValueError("must name a valid host")
    if port == 0 or parts.netloc.endswith(":"):
        raise ValueError("must have a port from 1 to 65535, or none")
    if parts.username is not None or parts.password is not None:
        raise ValueError("must not contain user info: a token belongs in OUTPUT_URL_AUTH_TOKEN")
    return parts.scheme + url[len(parts.scheme) :]


def _is_host(host: str) -> bool:
    if ":" in host:  # an address in brackets, which urlsplit has taken off
        return is_address(host)
    try:
        ascii_host = host.encode("idna").decode("ascii").removesuffix(".")
    except UnicodeError:
        return False
    return re.fullmatch(r"[a-z0-9_-]{1,63}(\.[a-z0-9_-]{1,63})*", ascii_host, re.IGNORECASE) is not None


def is_address(value: str) -> bool:
    """Whether a text is an IP address."""
    from ipaddress import ip_address  # seldom needed

    try:
        ip_address(value)
    except ValueError:
        return False
    return True


def check_secret(value: object) -> Secret | None:
    """A token that an Authorization field can carry (RFC 9110 §5.5: visible ASCII); None is allowed."""
    if value is None:
        return None
    shown = value.reveal() if isinstance(value, Secret) else value
    if not isinstance(shown, str) or not re.fullmatch(r"[\x21-\x7e]+", shown.strip()):
        raise ValueError("must be a token of visible ASCII characters")
    return Secret(shown.strip())


def check_address(value: object) -> str:
    """An IP address to listen on."""
    if not isinstance(value, str) or not is_address(value.strip()):
        raise ValueError(f"must be an IP address, not {quote(value)}")
    return value.strip()


def check_file(value: object) -> str | None:
    """A path as text; None is allowed."""
    if value is None:
        return None
    path = os.fspath(value) if isinstance(value, str | os.PathLike) else None
    if not isinstance(path, str) or not path or "\0" in path or not _is_encodable(path):
        raise ValueError(f"must be the path of a file, not {quote(value)}")
    return path


def check_secret_file(value: object) -> str | None:
    """As `check_file`, but what is refused is not quoted: it may be the secret itself."""
    try:
        return check_file(value)
    except ValueError:
        raise ValueError("must be the path of a file") from None


def check_directory(value: object) -> str | None:
    """A path as text; None is allowed. What is there is looked at when it is used."""
    try:
        return check_file(value)
    except ValueError:
        raise ValueError(f"must be the path of a directory, not {quote(value)}") from None


def _is_encodable(path: str) -> bool:
    try:
        os.fsencode(path)
    except UnicodeError:
        return False
    return True
