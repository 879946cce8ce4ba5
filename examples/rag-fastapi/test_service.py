"""The service on its own: a key server and keys made here, uvicorn on a free port, good and bad identities.

    python test_service.py

Prints what it sees; exits 1 when anything is not as it should be. No gateway is needed.
"""

import http.server
import json
import os
import socket
import threading
import time

import httpx
import jwt
import uvicorn
from cryptography.hazmat.primitives.asymmetric import ec, ed25519, rsa

from gateway_client import check

ISSUER = "http://gateway.test"
KEYS = {
    "ec": ("ES256", ec.generate_private_key(ec.SECP256R1())),
    "ed": ("EdDSA", ed25519.Ed25519PrivateKey.generate()),
    "rsa": ("RS256", rsa.generate_private_key(65537, 2048)),
}
MAKERS = {
    "ES256": jwt.algorithms.ECAlgorithm,
    "EdDSA": jwt.algorithms.OKPAlgorithm,
    "RS256": jwt.algorithms.RSAAlgorithm,
}


def public_jwk(kid: str) -> dict:
    algorithm, key = KEYS[kid]
    return {**json.loads(MAKERS[algorithm].to_jwk(key.public_key())), "kid": kid, "use": "sig", "alg": algorithm}


class KeyServer(http.server.BaseHTTPRequestHandler):
    visits = 0
    # What the gateway answers who sends this reference.
    referred: dict[str, str] = {}

    def do_GET(self) -> None:
        if self.path == "/claims":
            body = self.referred.get(self.headers["Authorization"].removeprefix("Bearer "), "").encode()
        else:
            KeyServer.visits += 1
            body = json.dumps({"keys": [public_jwk(kid) for kid in KEYS]}).encode()
        self.send_response(200 if body else 401)
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)

    def log_message(self, *_: object) -> None:
        pass


def sign(claims: dict, kid: str = "ec", key=None, algorithm: str | None = None, **header: object) -> str:
    header = {"typ": "gw-id+jwt", "kid": kid, **header}
    return jwt.encode(claims, key or KEYS[kid][1], algorithm or KEYS[kid][0], headers=header)


def claims(**more: object) -> dict:
    base = {"iss": ISSUER, "aud": "rag", "exp": int(time.time()) + 60, "sub": "u-1", "roles": ["user"]}
    base |= {"email": "alice@example.com", "email_verified": True, **more}
    return {name: value for name, value in base.items() if value is not None}


def bad_tokens() -> dict[str, str]:
    now, good = int(time.time()), sign(claims())
    head, body, signature = good.split(".")
    return {
        "expired": sign(claims(exp=now - 60)),
        "without exp": sign(claims(exp=None)),
        "not yet valid": sign(claims(nbf=now + 60)),
        "another issuer": sign(claims(iss="http://other.test")),
        "another audience": sign(claims(aud="other")),
        "an access token": sign(claims(), typ="at+jwt"),
        "without kid": jwt.encode(claims(), KEYS["ec"][1], "ES256", headers={"typ": "gw-id+jwt"}),
        "an unknown kid": sign(claims(), kid="nope", key=KEYS["ec"][1], algorithm="ES256"),
        "another key": sign(claims(), key=ec.generate_private_key(ec.SECP256R1())),
        "another key's algorithm": sign(claims(), kid="ec", key=KEYS["ed"][1], algorithm="EdDSA"),
        "HMAC": sign(claims(), key="x" * 64, algorithm="HS256"),
        "none": jwt.encode(claims(), None, "none", headers={"typ": "gw-id+jwt", "kid": "ec"}),
        "changed claims": f"{head}.{sign(claims(sub='u-2')).split('.')[1]}.{signature}",
        "no signature": f"{head}.{body}.",
        "too long": good + "A" * 9000,
        "garbage": "not.a.token",
        "nobody": sign(claims(sub=None)),
        "somebody and nobody": sign(claims(anonymous=True)),
    }


def checks(client: httpx.Client) -> None:
    def documents(token: str | None) -> httpx.Response:
        return client.get("/documents", headers={"X-Gateway-Identity": token} if token else {})

    def ids(**more: object) -> list[str]:
        return [entry["id"] for entry in documents(sign(claims(**more))).json()["documents"]]

    check("health needs no identity", client.get("/health").status_code == 200)
    check("everything else does", [client.get(path).status_code for path in ("/documents", "/whoami", "/v1/models")] == [401] * 3)
    check("a plain header is not believed", client.get("/whoami", headers={"X-User-Email": "a@b.c"}).status_code == 401)
    twice = [("X-Gateway-Identity", sign(claims()))] * 2
    check("two identities are none", client.get("/whoami", headers=twice).status_code == 401)
    for name, token in bad_tokens().items():
        check(f"refused: {name}", documents(token).status_code == 401, documents(token).text)
    check("every algorithm verifies", [documents(sign(claims(), kid)).status_code for kid in KEYS] == [200, 200, 200])
    check("keys are not fetched for each token", KeyServer.visits == 1, KeyServer.visits)
    own = ids()
    check("own and public documents", "alice-salary" in own and "handbook-leave" in own and "bob-salary" not in own, own)
    check("an unverified address opens nothing", "alice-salary" not in ids(email_verified=False))
    check("a role opens its documents", "board-plan" in ids(roles=["admin"]) and "board-plan" not in own)
    public = ids(sub=None, email=None, anonymous=True)
    check("anonymous: public documents only", public and all(i.startswith(("handbook", "product")) for i in public), public)

    def referring(reference: str) -> list[str]:
        source = {"endpoint": f"{os.environ['GATEWAY_JWKS_URL'].removesuffix('/jwks.json')}/claims", "access_token": reference}
        token = sign(claims(roles=None, _claim_names={"roles": "gateway"}, _claim_sources={"gateway": source}))
        answer = documents(token)
        return [entry["id"] for entry in answer.json()["documents"]] if answer.status_code == 200 else [str(answer.status_code)]

    kept = claims(roles=["admin"])
    KeyServer.referred = {
        "good": sign(kept, typ="gw-claims+jwt"),
        "another's": sign(kept | {"sub": "u-2"}, typ="gw-claims+jwt"),
        "another service's": sign(kept | {"aud": "other"}, typ="gw-claims+jwt"),
        "an identity": sign(kept),
        "over": sign(kept | {"exp": int(time.time()) - 60}, typ="gw-claims+jwt"),
        "garbage": "not.a.token",
    }
    check("claims by reference are read", "board-plan" in referring("good"), referring("good"))
    for name in [*list(KeyServer.referred)[1:], "unknown"]:
        check(f"refused: claims by reference, {name}", referring(name) == ["401"], referring(name))

    client.headers["X-Gateway-Identity"] = sign(claims())
    text = client.post("/ask", json={"question": "What is the yearly salary?"}).text
    check("the answer is Alice's", "71,500" in text and "64,200" not in text and text.rstrip().splitlines()[-2] == "event: done", text)
    check("an empty question is refused", client.post("/ask", json={"question": ""}).status_code == 422)
    body = client.post("/upload", content=(b"x" * 1000 for _ in range(1000))).json()
    check("an upload is counted", body["size"] == 1_000_000, body)
    answer = client.post("/v1/chat/completions", json={"model": "m", "messages": [{"role": "user", "content": "leave"}]})
    check("chat answers", "[handbook-leave]" in answer.json()["choices"][0]["message"]["content"], answer.text)


def main() -> None:
    keys = http.server.ThreadingHTTPServer(("127.0.0.1", 0), KeyServer)
    threading.Thread(target=keys.serve_forever, daemon=True).start()
    os.environ |= {"GATEWAY_ISSUER": ISSUER, "GATEWAY_JWKS_URL": f"http://127.0.0.1:{keys.server_port}/jwks.json"}
    os.environ.pop("ACCEPT_UNVERIFIED_EMAIL", None)
    listener = socket.create_server(("127.0.0.1", 0))
    server = uvicorn.Server(uvicorn.Config("app:app", log_level="warning"))
    thread = threading.Thread(target=server.run, args=([listener],))
    thread.start()
    try:
        # The socket listens already: the first request waits in its queue until uvicorn takes it.
        with httpx.Client(base_url=f"http://127.0.0.1:{listener.getsockname()[1]}", timeout=30) as client:
            checks(client)
    finally:
        server.should_exit = True
        thread.join()
    print("test_service: all good")


if __name__ == "__main__":
    main()
