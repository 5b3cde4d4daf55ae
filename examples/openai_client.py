"""The client of OpenAI, unchanged, on a server of your own: start it with `embank serve`.

python examples/openai_client.py [URL]
"""

from __future__ import annotations

import sys

from openai import OpenAI

url = sys.argv[1] if len(sys.argv) > 1 else "http://127.0.0.1:8080"
client = OpenAI(base_url=f"{url}/v1", api_key="not needed until `embank keys add` made one")

model = client.models.list().data[0].id
texts = ["Rivers carry silt.", "Bread rises with yeast."]
for text, vector in zip(texts, client.embeddings.create(model=model, input=texts).data, strict=True):
    print(f"{text}  {len(vector.embedding)} dimensions")
