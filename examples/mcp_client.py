"""What an assistant does with a bank: it starts `embank mcp`, searches, and reads.

python examples/mcp_client.py [BANK] [QUESTION]
"""

from __future__ import annotations

import asyncio
import os
import sys

from mcp import Client, StdioServerParameters


async def main(bank: str, question: str) -> None:
    """Ask the bank a question, and read what answers it best."""
    command = ["-m", "embank", "mcp", "--bank", bank, "--memory", "512MB"]
    async with Client(StdioServerParameters(command=sys.executable, args=command, env=dict(os.environ))) as client:
        found = await client.call_tool("search", {"query": question, "k": 3})
        if found.is_error:
            sys.exit(found.content[0].text)
        hits = found.structured_content["hits"]
        for hit in hits:
            print(f"{hit['score']:.3f}  {hit['id']}  {hit['text']}")
        read = await client.call_tool("read", {"id": hits[0]["id"]})
        print(read.structured_content["text"])


asyncio.run(main(*[*sys.argv[1:], *["notes.bank", "how does dough get airy?"][len(sys.argv) - 1 :]]))
