"""Stands in for a language model: the remote service LightRAG calls, in OpenAI's dialect. For tests only.

Embeddings are counts of words, so texts that share words are near each other; an answer is the sentence of the prompt
that shares the most words with the question, word by word when it is streamed. Nothing is downloaded or random.

    python model.py < listening-socket        # standard input is the socket it serves
"""

import array
import base64
import hashlib
import http.server
import json
import math
import re
import socket
import sys

DIMENSIONS = 64


def words(text: str) -> list[str]:
    return re.findall(r"\w+", text.lower())


def embed(text: str) -> list[float]:
    vector = [0.0] * DIMENSIONS
    for word in words(text):
        vector[hashlib.sha256(word.encode()).digest()[0] % DIMENSIONS] += 1.0
    length = math.sqrt(sum(value * value for value in vector)) or 1.0
    return [value / length for value in vector]


def answer(messages: list[dict]) -> str:
    prompt = "\n".join(str(message["content"]) for message in messages)
    question = str(messages[-1]["content"])
    if "Knowledge Graph Specialist" in prompt:
        # What LightRAG asks of each piece of a document: one entity is enough.
        return "entity<|#|>Herons<|#|>Creature<|#|>Herons are birds.\n<|COMPLETE|>"
    if "high_level_keywords" in prompt:
        return json.dumps({"high_level_keywords": ["birds"], "low_level_keywords": words(question)[-8:]})
    sentences = re.findall(r'[A-Z][^.!?"\\\n]*\.', prompt)
    wanted = set(words(question))
    return max(sentences, key=lambda text: len(wanted & set(words(text))), default="Nothing was found.")


class Model(http.server.BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"

    def do_POST(self) -> None:
        asked = json.loads(self.rfile.read(int(self.headers["Content-Length"])))
        if self.path.endswith("/embeddings"):
            self.embeddings(asked)
        elif asked.get("stream"):
            self.stream(answer(asked["messages"]))
        else:
            message = {"role": "assistant", "content": answer(asked["messages"])}
            choice = {"index": 0, "message": message, "finish_reason": "stop"}
            self.whole({**self.shared("chat.completion"), "choices": [choice], "usage": USAGE})

    def shared(self, kind: str) -> dict:
        return {"id": "double", "object": kind, "created": 0, "model": "double"}

    def embeddings(self, asked: dict) -> None:
        texts = [asked["input"]] if isinstance(asked["input"], str) else asked["input"]
        vectors = [embed(text) for text in texts]
        if asked.get("encoding_format") == "base64":
            vectors = [base64.b64encode(array.array("f", vector).tobytes()).decode() for vector in vectors]
        data = [{"object": "embedding", "index": i, "embedding": vector} for i, vector in enumerate(vectors)]
        self.whole({"object": "list", "data": data, "model": "double", "usage": USAGE})

    def whole(self, body: dict) -> None:
        text = json.dumps(body).encode()
        self.send_response(200)
        self.send_header("Content-Type", "application/json")
        self.send_header("Content-Length", str(len(text)))
        self.end_headers()
        self.wfile.write(text)

    def stream(self, text: str) -> None:
        self.send_response(200)
        self.send_header("Content-Type", "text/event-stream")
        self.send_header("Connection", "close")
        self.end_headers()
        for delta, finish in [*(({"content": word}, None) for word in re.findall(r"\S+\s*", text)), ({}, "stop")]:
            choice = {"index": 0, "delta": delta, "finish_reason": finish}
            self.event(json.dumps({**self.shared("chat.completion.chunk"), "choices": [choice]}))
        self.event("[DONE]")

    def event(self, data: str) -> None:
        self.wfile.write(f"data: {data}\n\n".encode())
        self.wfile.flush()

    def log_message(self, *_: object) -> None:
        pass


USAGE = {"prompt_tokens": 1, "completion_tokens": 1, "total_tokens": 2}


def main() -> None:
    listening = socket.socket(fileno=sys.stdin.fileno())
    server = http.server.ThreadingHTTPServer(listening.getsockname(), Model, bind_and_activate=False)
    server.socket = listening
    server.serve_forever()


if __name__ == "__main__":
    main()
