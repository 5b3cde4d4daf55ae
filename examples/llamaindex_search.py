"""LlamaIndex over a bank, or over a server where that is a URL: an index whose vectors Embank makes and keeps.

python examples/llamaindex_search.py [BANK or URL]
"""

from __future__ import annotations

import sys
from contextlib import AbstractContextManager

from llama_index.core import VectorStoreIndex
from llama_index.core.schema import TextNode

import embank
from embank.integrations.llamaindex import EmbankEmbedding, EmbankVectorStore

given = sys.argv[1] if len(sys.argv) > 1 else "notes.bank"
opened: AbstractContextManager[embank.Bank | embank.Client] = (
    embank.Client(given) if given.startswith("http") else embank.open(given, memory="512MB")
)
with opened as place:
    store = EmbankVectorStore(place, "llamaindex")
    index = VectorStoreIndex.from_vector_store(store, embed_model=EmbankEmbedding(place))
    index.insert_nodes(
        [
            TextNode(id_="silt", text="Rivers carry silt to the sea.", metadata={"year": 2024}),
            TextNode(id_="bread", text="Bread rises because yeast makes gas from sugar.", metadata={"year": 2021}),
        ]
    )
    best = index.as_retriever(similarity_top_k=1, vector_store_query_mode="hybrid")
    for question in ("what do rivers carry?", "how does dough get airy?"):
        [found] = best.retrieve(question)
        print(f"{question}  {found.node_id}: {found.text}")
