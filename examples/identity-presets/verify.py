"""Who asks, read from the headers of another product, as that product's own documentation tells services to read them.

For services that stand behind Portcullis with `identity.preset` and were written for Pomerium, Google's Identity-Aware
Proxy, Cloudflare Access or as a backend of Open WebUI. Each function takes the headers of one request, with lower-case
names, and gives the verified claims; it raises when there is anything wrong with them.

    python verify.py < cases.json

reads a list of {"format", "headers", "keys", "issuer", "audience"} and prints a list of {"claims"} or {"refused"}.
"""

import json
import sys
from typing import Any
from urllib.parse import unquote

import google.auth.transport
import httpx
import jwt
from google.oauth2 import id_token


def pomerium(headers: dict[str, str], keys: str, issuer: str, audience: str) -> dict[str, Any]:
    """https://www.pomerium.com/docs/capabilities/getting-users-identity: signature by the key set of this very host,
    exp and iat, and iss and aud that are the service's own domain."""
    token = headers["x-pomerium-jwt-assertion"]
    key = jwt.PyJWKClient(keys).get_signing_key_from_jwt(token)
    required = {"require": ["exp", "iat", "aud", "iss", "sub"]}
    return jwt.decode(token, key, algorithms=["ES256"], audience=audience, issuer=issuer, options=required)


class Transport(google.auth.transport.Request):
    """google-auth brings adapters for requests, urllib3 and aiohttp; this one is for httpx."""

    def __call__(self, url, method="GET", body=None, headers=None, timeout=5, **_):
        answer = httpx.request(method, url, content=body, headers=headers, timeout=timeout, trust_env=False)

        class Response(google.auth.transport.Response):
            status, headers, data = answer.status_code, answer.headers, answer.content

        return Response()


def google_iap(headers: dict[str, str], keys: str, issuer: str, audience: str) -> dict[str, Any]:
    """https://cloud.google.com/iap/docs/signed-headers-howto, with Google's own library. The address of the keys is the
    gateway's in place of https://www.gstatic.com/iap/verify/public_key."""
    token = headers["x-goog-iap-jwt-assertion"]
    if jwt.get_unverified_header(token)["alg"] != "ES256":
        raise ValueError("IAP signs with ES256")
    claims = id_token.verify_token(token, Transport(), audience=audience, certs_url=keys)
    if claims["iss"] != issuer:
        raise ValueError(f"wrong issuer: {claims['iss']}")
    # The unsigned ones say the same, or lie.
    if headers["x-goog-authenticated-user-id"] != claims["sub"]:
        raise ValueError("another id beside the assertion")
    if headers.get("x-goog-authenticated-user-email", "accounts.google.com:") != f"accounts.google.com:{claims.get('email', '')}":
        raise ValueError("another address beside the assertion")
    return dict(claims)


def cloudflare_access(headers: dict[str, str], keys: str, issuer: str, audience: str) -> dict[str, Any]:
    """https://developers.cloudflare.com/cloudflare-one/identity/authorization-cookie/validating-json: the key of the
    team domain's certs that the header names, RS256, the application's audience tag, the team domain as issuer."""
    token = headers["cf-access-jwt-assertion"]
    key = jwt.PyJWKClient(keys).get_signing_key_from_jwt(token)
    claims = jwt.decode(token, key, algorithms=["RS256"], audience=audience, issuer=issuer)
    if claims["type"] != "app":
        raise ValueError("not an application token")
    if headers.get("cf-access-authenticated-user-email") != claims.get("email"):
        raise ValueError("another address beside the assertion")
    return claims


def open_webui(headers: dict[str, str], **_: str) -> dict[str, Any]:
    """ENABLE_FORWARD_USER_INFO_HEADERS of https://docs.openwebui.com: unsigned, so only for a service that nobody else
    can reach. The name is quoted, since it need not be ASCII."""
    user = {part: headers.get(f"x-openwebui-user-{part}") for part in ["name", "id", "email", "role"]}
    if user["id"] is None or user["role"] not in ("admin", "user"):
        raise ValueError("nobody")
    return {**user, "name": unquote(user["name"])}


FORMATS = {f.__name__: f for f in [pomerium, google_iap, cloudflare_access, open_webui]}


def outcome(case: dict[str, Any]) -> dict[str, Any]:
    read = FORMATS[case.pop("format")]
    try:
        return {"claims": read(**case)}
    except Exception as fault:  # Whatever is wrong with it: nobody.
        return {"refused": f"{type(fault).__name__}: {fault}"}


if __name__ == "__main__":
    json.dump([outcome(case) for case in json.load(sys.stdin)], sys.stdout)
