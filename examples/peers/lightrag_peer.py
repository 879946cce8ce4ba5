"""The real LightRAG server, for tests: `uvicorn --factory lightrag_peer:app --fd 0`.

One thing is not its own. At start it fetches the vocabulary of o200k_base from OpenAI's storage, to count tokens by;
tests reach package registries only, so bytes are counted instead. That decides how documents are cut into pieces.
"""

import os
import sys

import tiktoken
import tiktoken.registry


def app():
    tiktoken.registry.ENCODINGS["o200k_base"] = tiktoken.Encoding(
        name="o200k_base",
        pat_str=r"[\s\S]",
        mergeable_ranks={bytes([byte]): byte for byte in range(256)},
        special_tokens={},
    )
    # It reads its command line by itself: that is uvicorn's here.
    sys.argv = sys.argv[:1]
    from lightrag.api.lightrag_server import get_application

    return get_application()
