"""Documents, who may read which, and lexical ranking (BM25). No HTTP."""

import json
import re
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from rank_bm25 import BM25Plus

from identity import Caller

# The same texts as the Rust example's.
SHIPPED = Path(__file__).parent.parent / "rag-demo" / "documents.json"
TOP, SENTENCES, WORDS = 3, 4, 3
STOP_WORDS = frozenset("a an and are at be by do does for from has have how i in is it my of on or that the to was what when where which who will with".split())


@dataclass(frozen=True)
class Document:
    id: str
    owner: str
    title: str
    text: str

    def visible_to(self, caller: Caller) -> bool:
        if self.owner == "public":
            return True
        if caller.subject is None:
            return False
        if self.owner.startswith("role:"):
            return self.owner.removeprefix("role:") in caller.roles
        return self.owner == caller.subject or self.owner.lower() == (caller.email or "").lower()


@dataclass(frozen=True)
class Hit:
    document: Document
    score: float


def tokenize(text: str) -> list[str]:
    return [word for word in re.findall(r"\w+", text.lower()) if word not in STOP_WORDS]


def rank(texts: list[str], question: str) -> list[tuple[int, float]]:
    """(index, score) of the texts that share a word with the question, best first."""
    wanted, corpus = set(tokenize(question)), [tokenize(text) for text in texts]
    if not any(corpus):
        return []
    scores = BM25Plus(corpus).get_scores(list(wanted))
    fitting = [(i, float(scores[i])) for i, words in enumerate(corpus) if wanted & set(words)]
    return sorted(fitting, key=lambda pair: -pair[1])


class Library:
    def __init__(self, documents: list[Document]) -> None:
        self.documents = documents

    @classmethod
    def shipped(cls) -> "Library":
        return cls([Document(**entry) for entry in json.loads(SHIPPED.read_text(encoding="utf-8"))])

    def visible(self, caller: Caller) -> list[Document]:
        return [document for document in self.documents if document.visible_to(caller)]

    def search(self, question: str, caller: Caller) -> list[Hit]:
        # Ranked among what the caller may read, so that neither a hit nor a score tells of anything hidden.
        visible = self.visible(caller)
        ranked = rank([f"{d.title}. {d.text}" for d in visible], question)
        return [Hit(visible[i], score) for i, score in ranked[:TOP]]


def compose(question: str, hits: list[Hit]) -> str:
    """An answer made of the sentences that fit the question best, in reading order, each followed by its source."""
    sentences = [(h.document, s) for h in hits for s in re.split(r"(?<=[.!?])\s+", h.document.text)]
    best = sorted(i for i, _ in rank([text for _, text in sentences], question)[:SENTENCES])
    if not best:
        return "Nothing you may read answers that."
    return " ".join(f"{sentences[i][1]} [{sentences[i][0].id}]" for i in best)


def word_groups(answer: str) -> Iterator[str]:
    """The answer in groups of a few words, as a model would give them."""
    words = re.findall(r"\S+\s*", answer)
    for i in range(0, len(words), WORDS):
        yield "".join(words[i : i + WORDS])
