"""Who asks: verifies X-Gateway-Identity, the identity token the gateway signs for every request.

Copy this file into your own service. What it needs to know comes from the environment:

    GATEWAY_ISSUER     the gateway's tokens.issuer, byte for byte (required)
    GATEWAY_AUDIENCE   this service's cluster name in the gateway's configuration (default: rag)
    GATEWAY_JWKS_URL   default: GATEWAY_ISSUER/.well-known/jwks.json
    ACCEPT_UNVERIFIED_EMAIL=1   take an address that the gateway has not verified for the user's. Whoever registers it
                       first then reads its documents: for trying things out, nowhere else
"""

import os
import urllib.request
from dataclasses import dataclass, field
from typing import Any

import jwt
from fastapi import HTTPException, Request

HEADER = "x-gateway-identity"
ALGORITHMS = ["ES256", "EdDSA", "RS256"]
# Clock skew forgiven, seconds; the token lives for 60.
LEEWAY = 10
MAX_BYTES = 8 * 1024

ISSUER = os.environ["GATEWAY_ISSUER"]
AUDIENCE = os.environ.get("GATEWAY_AUDIENCE", "rag")
JWKS_URL = os.environ.get("GATEWAY_JWKS_URL", f"{ISSUER}/.well-known/jwks.json")
ACCEPT_UNVERIFIED_EMAIL = os.environ.get("ACCEPT_UNVERIFIED_EMAIL") == "1"

# Keeps the key set for five minutes, and fetches it again for a kid that is not in it (the gateway does not rotate its
# keys yet; a key may be replaced all the same), at most every 30 seconds. Not cache_keys=True: that one keeps each key
# for ever, withdrawn or not.
keys = jwt.PyJWKClient(JWKS_URL, lifespan=300, timeout=5)


@dataclass(frozen=True)
class Caller:
    """Who asks. `subject` is None for an anonymous caller."""

    subject: str | None = None
    email: str | None = None
    roles: frozenset[str] = frozenset()
    claims: dict[str, Any] = field(default_factory=dict)

    @property
    def name(self) -> str:
        return self.email or self.subject or "anonymous"


class NotVouchedFor(Exception):
    """The token is not one the gateway made for this service and this minute."""


def verify(token: str) -> Caller:
    """Signature, typ, issuer, audience, time.

    Raises NotVouchedFor, or jwt.PyJWKClientConnectionError when the gateway's keys cannot be fetched.
    """
    if len(token) > MAX_BYTES:
        raise NotVouchedFor("too long")
    try:
        header = jwt.get_unverified_header(token)
        # Another kind of token of the same issuer (an access token, say) must not do (RFC 8725 §3.11).
        if str(header.get("typ", "")).lower() != "gw-id+jwt":
            raise NotVouchedFor("another typ")
        if header.get("alg") not in ALGORITHMS or "crit" in header or "kid" not in header:
            raise NotVouchedFor("a header that is never used here")
        key = keys.get_signing_key(header["kid"])
        if key.algorithm_name != header["alg"]:
            raise NotVouchedFor("an algorithm that is not its key's")
        claims = jwt.decode(
            token,
            key,
            algorithms=ALGORITHMS,
            audience=AUDIENCE,
            issuer=ISSUER,
            leeway=LEEWAY,
            options={"require": ["exp", "iss", "aud"]},
        )
    except jwt.PyJWKClientConnectionError:
        raise
    except jwt.PyJWTError as error:
        raise NotVouchedFor(str(error)) from error
    return _caller(_whole(claims))


def _whole(claims: dict[str, Any]) -> dict[str, Any]:
    """With the claims that no header holds (over 4 KiB, roles mostly), which the identity only refers to."""
    if "_claim_names" not in claims:
        return claims
    source = claims["_claim_sources"]["gateway"]
    request = urllib.request.Request(source["endpoint"], headers={"Authorization": f"Bearer {source['access_token']}"})
    try:
        with urllib.request.urlopen(request, timeout=5) as answer:
            token = answer.read(4 * MAX_BYTES).decode("ascii")
        header = jwt.get_unverified_header(token)
        if str(header.get("typ", "")).lower() != "gw-claims+jwt":
            raise NotVouchedFor("another typ")
        referred = jwt.decode(
            token,
            keys.get_signing_key(header["kid"]),
            algorithms=ALGORITHMS,
            audience=AUDIENCE,
            issuer=ISSUER,
            leeway=LEEWAY,
            subject=claims["sub"],
            options={"require": ["exp", "iss", "aud", "sub"]},
        )
    except (OSError, KeyError, ValueError, jwt.PyJWTError) as error:
        # Whoever is left without some of the roles must not be served as if there were none.
        raise NotVouchedFor("claims by reference cannot be read") from error
    return claims | {name: referred[name] for name in claims["_claim_names"] if name in referred}


def _caller(claims: dict[str, Any]) -> Caller:
    subject, anonymous = claims.get("sub"), claims.get("anonymous") is True
    if anonymous and subject is None:
        return Caller(claims=claims)
    if anonymous or not subject:
        raise NotVouchedFor("neither a user nor anonymous")
    trusted = claims.get("email_verified") is True or ACCEPT_UNVERIFIED_EMAIL
    roles = frozenset(claims.get("roles") or ())
    return Caller(subject, claims.get("email") if trusted else None, roles, claims)


def identity_headers(request: Request) -> list[str]:
    return request.headers.getlist(HEADER)


def current_user(request: Request) -> Caller:
    """A FastAPI dependency. Not async: fetching keys blocks, so FastAPI runs it on a thread."""
    tokens = identity_headers(request)
    try:
        if len(tokens) != 1:
            raise NotVouchedFor("there is not exactly one identity header")
        return verify(tokens[0])
    except NotVouchedFor as error:
        # One answer for every cause.
        raise HTTPException(401, "no valid identity from the gateway") from error
    except jwt.PyJWKClientConnectionError as error:
        raise HTTPException(503, "the gateway's keys cannot be fetched", {"Retry-After": "1"}) from error
