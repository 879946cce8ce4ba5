"""Uses a Chroma behind the gateway with Chroma's own client: an account, a collection, texts in, questions, texts out.

    python client_chroma.py http://127.0.0.1:8080

Prints what it sees; exits 1 at the first mismatch. Embeddings are given, so that none is computed here.
"""

import sys
import uuid

import chromadb
import httpx

PASSWORD = "seven tame herons at dusk"


def check(what: str, good: bool, seen: object = "") -> None:
    print(("ok: " if good else "MISMATCH: ") + what)
    if not good:
        print(f"  seen: {seen}", file=sys.stderr)
        sys.exit(1)


def connect(gateway: httpx.URL, headers: dict[str, str]):
    return chromadb.HttpClient(host=gateway.host, port=gateway.port, ssl=gateway.scheme == "https", headers=headers)


def refused(gateway: httpx.URL, headers: dict[str, str]) -> str:
    try:
        connect(gateway, headers).list_collections()
    except Exception as error:  # its own types say less than their text
        return str(error)
    return "it was let in"


def main() -> None:
    gateway = httpx.URL(sys.argv[1])
    account = {"email": f"u-{uuid.uuid4().hex[:12]}@example.com", "password": PASSWORD}
    answer = httpx.post(gateway.join("/auth/register"), json=account, timeout=30)
    check("register: 201", answer.status_code == 201, answer.text)
    token = answer.json()["access_token"]

    said = refused(gateway, {})
    check("without a token: 401", '"credentials_missing"' in said, said)
    said = refused(gateway, {"Authorization": f"Bearer {token[:-4]}AAAA"})
    check("with a wrong signature: 401", '"invalid_token"' in said, said)

    chroma = connect(gateway, {"Authorization": f"Bearer {token}"})
    check("alive", chroma.heartbeat() > 0)
    animals = chroma.create_collection(f"animals-{uuid.uuid4().hex[:8]}", embedding_function=None)
    animals.add(
        ids=["heron", "otter", "badger"],
        embeddings=[[1, 0, 0], [0, 1, 0], [0, 0, 1]],
        documents=["Herons sleep on one leg.", "Otters hold hands.", "Badgers dig."],
        metadatas=[{"legs": 2}, {"legs": 4}, {"legs": 4}],
    )
    check("three are in", animals.count() == 3, animals.count())
    found = animals.query(query_embeddings=[[0.1, 0.9, 0]], n_results=2)
    check("the nearest comes first", found["ids"][0][0] == "otter" and found["documents"][0][0] == "Otters hold hands.", found)
    found = animals.query(query_embeddings=[[1, 0, 0]], n_results=1, where={"legs": 4})
    check("a filter holds", found["ids"][0][0] != "heron", found)
    animals.update(ids=["badger"], embeddings=[[0, 0, 1]], documents=["Badgers dig tunnels."])
    check("changed", animals.get(ids=["badger"])["documents"] == ["Badgers dig tunnels."])
    animals.delete(ids=["heron"])
    check("gone", animals.get()["ids"] == ["otter", "badger"], animals.get()["ids"])
    chroma.delete_collection(animals.name)
    names = [collection.name for collection in chroma.list_collections()]
    check("and the collection with them", animals.name not in names, names)
    try:
        chroma.reset()
        said = "it was emptied"
    except Exception as error:
        said = str(error)
    check("nobody empties it: 403", '"role_missing"' in said, said)
    print("client_chroma: all good")


if __name__ == "__main__":
    main()
