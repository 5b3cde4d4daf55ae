"""LangChain over a bank, or over a server where that is a URL: vector store, retriever, cached embeddings.

python examples/langchain_search.py [BANK or URL]
"""

from __future__ import annotations

import sys
from contextlib import AbstractContextManager

from langchain_core.documents import Document

import embank
from embank.integrations.langchain import EmbankRetriever, EmbankVectorStore

given = sys.argv[1] if len(sys.argv) > 1 else "notes.bank"
opened: AbstractContextManager[embank.Bank | embank.Client] = (
    embank.Client(given) if given.startswith("http") else embank.open(given, memory="512MB")
)
with opened as place:
    store = EmbankVectorStore(place, "langchain")
    store.add_documents(
        [
            Document("Rivers carry silt to the sea.", id="silt", metadata={"year": 2024}),
            Document("Bread rises because yeast makes gas from sugar.", id="bread", metadata={"year": 2021}),
        ]
    )
    recent = EmbankRetriever(store=store, k=1, filter={"year": {"$gte": 2020}})
    for question in ("what do rivers carry?", "how does dough get airy?"):
        [found] = recent.invoke(question)
        print(f"{question}  {found.id}: {found.page_content}")
