"""What both client scripts share: arguments, an account at the gateway, checks that end the script."""

import argparse
import sys
import uuid

import httpx


def arguments(description: str) -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=description)
    parser.add_argument("gateway", help="the gateway's URL, e.g. http://127.0.0.1:8080")
    parser.add_argument("--portal", default="/auth", help="one of portal.base_paths (default: /auth)")
    # A fresh address by default, so that the script can be run again and again.
    parser.add_argument("--email", default=f"u-{uuid.uuid4().hex[:12]}@example.com")
    parser.add_argument("--password", default="seven tame herons at dusk")
    return parser.parse_args()


def check(what: str, good: bool, seen: object = "") -> None:
    print(("ok: " if good else "MISMATCH: ") + what)
    if not good:
        print(f"  seen: {seen}", file=sys.stderr)
        sys.exit(1)


def register_and_login(client: httpx.Client, args: argparse.Namespace) -> tuple[str, dict]:
    """Registers (or finds the account there already) and logs in. Gives the access token and the user."""
    credentials = {"email": args.email, "password": args.password}
    answer = client.post(f"{args.portal}/register", json=credentials)
    check("register: 201, or 409 when the account exists", answer.status_code in (201, 409), answer.text)
    answer = client.post(f"{args.portal}/login", json=credentials)
    check("log in: 200", answer.status_code == 200, answer.text)
    body = answer.json()
    check("the token is a bearer token", body["token_type"].lower() == "bearer" and body["expires_in"] > 0, body)
    check("the user is the one who registered", body["user"]["email"].lower() == args.email.lower(), body["user"])
    return body["access_token"], body["user"]
