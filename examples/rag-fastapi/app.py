"""A RAG service behind Portcullis, as a RAG developer would write it.

It knows who asks from one thing only: the signed X-Gateway-Identity header, verified against the gateway's published
keys in identity.py. Everything else here is ordinary FastAPI.

    GATEWAY_ISSUER=http://127.0.0.1:8080 uvicorn app:app --port 9622
"""

import hashlib
import json
import time
import uuid
from collections.abc import Iterator
from typing import Annotated, Literal

from fastapi import Depends, FastAPI, Request
from fastapi.responses import StreamingResponse
from pydantic import BaseModel, ConfigDict, Field

from documents import Library, compose, word_groups
from identity import Caller, current_user, identity_headers

app = FastAPI(title="rag-fastapi", version="0.1.0")
library = Library.shipped()
MODEL = "lexical-1"

CurrentUser = Annotated[Caller, Depends(current_user)]


@app.get("/health")
def health() -> dict:
    """Alive. Needs no identity: the gateway's health check has none."""
    return {"status": "alive"}


@app.get("/whoami")
def whoami(caller: CurrentUser, request: Request) -> dict:
    """What the gateway vouches for, and every header that arrived: for finding out why something does not work."""
    return {"claims": caller.claims, "headers": request.headers.items(), "identity_headers": identity_headers(request)}


@app.get("/documents")
def documents(caller: CurrentUser) -> dict:
    listed = [{"id": d.id, "title": d.title, "owner": d.owner} for d in library.visible(caller)]
    return {"asked_by": caller.name, "documents": listed}


class Question(BaseModel):
    model_config = ConfigDict(extra="forbid")
    question: Annotated[str, Field(min_length=1, max_length=2000)]


def event(name: str, data: object) -> str:
    return f"event: {name}\ndata: {json.dumps(data)}\n\n"


@app.post("/ask")
def ask(body: Question, caller: CurrentUser) -> StreamingResponse:
    """Server-sent events: sources, many token, done."""

    def answer() -> Iterator[str]:
        hits = library.search(body.question, caller)
        yield event("sources", [{"id": h.document.id, "title": h.document.title, "score": h.score} for h in hits])
        count = 0
        for text in word_groups(compose(body.question, hits)):
            yield event("token", {"text": text})
            count += 1
        yield event("done", {"asked_by": caller.name, "tokens": count})

    return StreamingResponse(answer(), media_type="text/event-stream", headers={"Cache-Control": "no-cache"})


@app.post("/upload")
async def upload(request: Request, caller: CurrentUser) -> dict:
    """Reads the body as it comes and keeps none of it: any size in flat memory."""
    digest, size = hashlib.sha256(), 0
    async for chunk in request.stream():
        digest.update(chunk)
        size += len(chunk)
    return {"asked_by": caller.name, "size": size, "sha256": digest.hexdigest()}


# --- the OpenAI-compatible part: what `openai` clients call when base_url points here -------------------------------


class TextPart(BaseModel):
    type: Literal["text"]
    text: str


class Message(BaseModel):
    role: str
    content: str | list[TextPart] | None = None

    @property
    def text(self) -> str:
        if isinstance(self.content, list):
            return " ".join(part.text for part in self.content)
        return self.content or ""


class StreamOptions(BaseModel):
    include_usage: bool = False


class ChatRequest(BaseModel):
    # Clients send many more settings (temperature, …); a lexical model has no use for them.
    model: str
    messages: Annotated[list[Message], Field(min_length=1)]
    stream: bool = False
    stream_options: StreamOptions | None = None


@app.get("/v1/models")
def models(caller: CurrentUser) -> dict:
    return {"object": "list", "data": [{"id": MODEL, "object": "model", "created": 0, "owned_by": "rag-fastapi"}]}


@app.post("/v1/chat/completions")
def chat(body: ChatRequest, caller: CurrentUser):
    question = next((m.text for m in reversed(body.messages) if m.role == "user"), "")
    hits = library.search(question, caller)
    pieces = list(word_groups(compose(question, hits)))
    shared = {"id": f"chatcmpl-{uuid.uuid4().hex}", "created": int(time.time()), "model": body.model}
    prompt = sum(len(m.text.split()) for m in body.messages)
    usage = {"prompt_tokens": prompt, "completion_tokens": len(pieces), "total_tokens": prompt + len(pieces)}
    if not body.stream:
        message = {"role": "assistant", "content": "".join(pieces)}
        choice = {"index": 0, "message": message, "finish_reason": "stop"}
        return {**shared, "object": "chat.completion", "choices": [choice], "usage": usage}

    def chunk(delta: dict, finish_reason: str | None = None) -> str:
        choice = {"index": 0, "delta": delta, "finish_reason": finish_reason}
        return f"data: {json.dumps({**shared, 'object': 'chat.completion.chunk', 'choices': [choice]})}\n\n"

    def answer() -> Iterator[str]:
        yield chunk({"role": "assistant", "content": ""})
        for text in pieces:
            yield chunk({"content": text})
        yield chunk({}, "stop")
        if body.stream_options and body.stream_options.include_usage:
            last = {**shared, "object": "chat.completion.chunk", "choices": [], "usage": usage}
            yield f"data: {json.dumps(last)}\n\n"
        yield "data: [DONE]\n\n"

    return StreamingResponse(answer(), media_type="text/event-stream", headers={"Cache-Control": "no-cache"})
