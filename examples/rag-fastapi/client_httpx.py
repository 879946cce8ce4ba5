"""Uses the gateway as an API client does: registers, logs in, asks, reads the stream, uploads, checks who it is.

    python client_httpx.py http://127.0.0.1:8080

Prints what it sees; exits 1 at the first mismatch.
"""

import hashlib
import json
from collections.abc import Iterator

import httpx

from gateway_client import arguments, check, register_and_login


def events(lines: Iterator[str]) -> Iterator[tuple[str, object]]:
    """(event, data) of a server-sent event stream."""
    name, data = "message", []
    for line in lines:
        if not line and data:
            yield name, json.loads("\n".join(data))
            name, data = "message", []
        elif line.startswith("event:"):
            name = line.removeprefix("event:").strip()
        elif line.startswith("data:"):
            data.append(line.removeprefix("data:").strip())


def ask(client: httpx.Client, question: str) -> list[tuple[str, object]]:
    with client.stream("POST", "/ask", json={"question": question}) as answer:
        check("ask: 200", answer.status_code == 200, answer.status_code)
        check("ask: a stream", answer.headers["content-type"].startswith("text/event-stream"), answer.headers)
        return list(events(answer.iter_lines()))


def blocks(count: int) -> Iterator[bytes]:
    for i in range(count):
        yield bytes([i % 256]) * 65_536


def main() -> None:
    args = arguments("Uses the gateway with httpx.")
    with httpx.Client(base_url=args.gateway, timeout=30) as client:
        check("without a token: 401", client.get("/whoami").status_code == 401)
        token, user = register_and_login(client, args)
        wrong = client.get("/whoami", headers={"Authorization": f"Bearer {token[:-4]}AAAA"})
        check("with a wrong signature: 401", wrong.status_code == 401, wrong.text)

        client.headers["Authorization"] = f"Bearer {token}"
        forged = {"X-User-Email": "admin@example.com", "X-Gateway-Identity": "e30.e30.AAAA"}
        me = client.get("/whoami", headers=forged)
        check("who am I: 200", me.status_code == 200, me.text)
        seen, claims = me.json(), me.json()["claims"]
        check("the service verified who I am", claims["sub"] == user["id"], claims)
        check("it knows my address", claims["email"].lower() == args.email.lower(), claims)
        names = [name for name, _ in seen["headers"]]
        check("one identity header, not the forged one", len(seen["identity_headers"]) == 1, seen["identity_headers"])
        check("my token stayed at the gateway", "authorization" not in names, names)
        check("no forged address came through", "admin@example.com" not in json.dumps(seen), seen)

        stream = ask(client, "How many days of paid leave do I have?")
        kinds = [name for name, _ in stream]
        check("sources, then tokens, then done", (kinds[0], kinds[-1]) == ("sources", "done"), kinds)
        text = "".join(data["text"] for name, data in stream if name == "token")
        check("the answer is there, with its source", "28 days" in text and "[handbook-leave]" in text, text)
        check("the service knows who asked", stream[-1][1]["asked_by"].lower() in (user["id"], args.email.lower()), stream)
        print(f"answer: {text}")

        digest = hashlib.sha256(b"".join(blocks(64))).hexdigest()
        upload = client.post("/upload", content=blocks(64))
        check("upload: 200", upload.status_code == 200, upload.text)
        body = upload.json()
        check("4 MiB arrived, every byte", (body["size"], body["sha256"]) == (64 * 65_536, digest), body)
    print("client_httpx: all good")


if __name__ == "__main__":
    main()
