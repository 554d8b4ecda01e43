"""Who may come in: the right host name, the page's own origin, and a token where one is asked.

A browser sends other sites' scripts to local addresses without asking, so a local player is open
to the page that it served itself and to nothing else. Imports nothing of ours.
"""

from __future__ import annotations

import hmac
import secrets
from collections.abc import Iterable
from dataclasses import dataclass, field
from urllib.parse import parse_qs

LARGEST = 16_384  # bytes of all headers and the query together
LOOPBACK = ("127.0.0.1", "localhost", "[::1]")


@dataclass(frozen=True)
class Guard:
    """The rules of one server.

    Attributes:
        port: that it listens on.
        token: that everybody must bring; None: only loopback names are answered.
    """

    port: int
    token: str | None = field(default=None, repr=False)

    @classmethod
    def of(cls, host: str, port: int) -> Guard:
        """A server on loopback needs no token; any other makes one.

        Args:
            host: that it is bound to.
            port: that it listens on.
        """
        local = host in {"127.0.0.1", "localhost", "::1"}
        return cls(port, None if local else secrets.token_urlsafe(16))

    def refuses(
        self, headers: Iterable[tuple[bytes, bytes]], query: bytes, *, socket: bool
    ) -> str | None:
        """Why a request is not answered; None: it may come in.

        Args:
            headers: as ASGI gives them.
            query: of the address.
            socket: a websocket, which must come from the page itself.
        """
        headers = list(headers)
        if sum(len(name) + len(value) for name, value in headers) + len(query) > LARGEST:
            return "A request is small."
        found: dict[bytes, list[str]] = {}
        for name, value in headers:
            found.setdefault(name.lower(), []).append(value.decode("latin-1"))
        hosts, origins = found.get(b"host", []), found.get(b"origin", [])
        if len(hosts) != 1:
            return "A request names one host."
        if self.token is None and hosts[0].lower() not in self._names():
            return "The player answers on this machine only. Open the address that it printed."
        if origins and origins not in ([f"http://{hosts[0]}"], [f"https://{hosts[0]}"]):
            return "Another page asked. The player answers its own only."
        if socket and not origins:
            return "A websocket comes from the player's page."
        return None if self._brings_token(query) else "Open the whole address that was printed."

    def _names(self) -> set[str]:
        """The host headers of this machine."""
        plain = set(LOOPBACK) if self.port == 80 else set[str]()
        return plain | {f"{name}:{self.port}" for name in LOOPBACK}

    def _brings_token(self, query: bytes) -> bool:
        """Whether the address holds the token, compared in constant time."""
        if self.token is None:
            return True
        try:
            given = parse_qs(query.decode("ascii"), max_num_fields=8).get("token", [])
        except ValueError:
            return False
        return len(given) == 1 and hmac.compare_digest(given[0].encode(), self.token.encode())
