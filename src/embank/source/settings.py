"""What can be set about reading sources."""

from __future__ import annotations

from typing import Annotated

from pydantic import AfterValidator, Field

from embank.config import Section, Size

LEAST_BYTES = 1024


def _amount(size: Size) -> Size:
    """A plain number of bytes that leaves room for something: there is no whole that a percentage could be of."""
    if size.count_bytes is None or size.count_bytes < LEAST_BYTES:
        raise ValueError(f"must be an amount of at least {LEAST_BYTES} bytes, such as 1MiB")
    return size


Amount = Annotated[Size, AfterValidator(_amount)]


class Settings(Section):
    """Section `source`. Globs follow the syntax of `.gitignore`, relative to the indexed root."""

    include: tuple[str, ...] = Field(
        default=(), description="only files that match one of these globs are read; empty: every text file"
    )
    exclude: tuple[str, ...] = Field(default=(), description="files and folders that match are left out")
    gitignore: bool = Field(default=True, description="honour .gitignore files, up to the repository's root")
    hidden: bool = Field(default=False, description="read files and folders whose names begin with a dot, too")
    follow_symlinks: bool = Field(default=True, description="read what symbolic links lead to; loops are detected")
    max_document_bytes: Amount = Field(
        default=Size("1MiB"),
        description="a file with more text than this (as UTF-8) is cut into several documents, path#part=N",
    )
    pdf_seconds: float = Field(
        default=120.0, gt=0, description="PDF: a file that keeps its reader busy for longer is given up, and counted"
    )
    pdf_memory: Amount = Field(
        default=Size("256MiB"), description="PDF: a file that needs more memory than this is given up, and counted"
    )
    text_key: str = Field(default="text", min_length=1, description="rows: the key or column that holds the text")
    id_key: str = Field(default="id", min_length=1, description="rows: the key or column that holds the id, if any")
    metadata_key: str = Field(
        default="metadata", min_length=1, description="rows: the key or column that holds a mapping of metadata, if any"
    )
    columns: tuple[str, ...] = Field(
        default=(), description="Parquet: the other columns that are read, as metadata; empty: all of them"
    )
    max_line_bytes: Amount = Field(
        default=Size("16MiB"),
        description="rows: a longer line of JSON is skipped without being read as a whole, as is a longer text",
    )

    @property
    def document_bytes(self) -> int:
        """`max_document_bytes` as a number."""
        return self.max_document_bytes.resolve(0)

    @property
    def line_bytes(self) -> int:
        """`max_line_bytes` as a number."""
        return self.max_line_bytes.resolve(0)

    @property
    def pdf_bytes(self) -> int:
        """`pdf_memory` as a number."""
        return self.pdf_memory.resolve(0)
