"""Token ids by fragment, remembered: for BPE tokenizers that merge over the whole text, as Llama's does.

A merge makes a token of the vocabulary, so none reaches over two neighbouring bytes that are neighbours in no token.
There a text may be cut: the ids of the text are those of its fragments, one after the other, and a fragment that was
seen before (mostly a word with the blank before it, or a punctuation mark) need not be merged again, which is most of
the time that tokenizing takes. All texts of a call are cut, looked up and put together at once, in numpy.

What is remembered lies in a table of fixed size, `TABLE_BYTES`; a fragment's hash names two places. When others have
both, one of them goes: what is frequent is soon learnt again.
"""

from __future__ import annotations

import re
import threading
from collections.abc import Iterator, Sequence
from itertools import chain, islice
from typing import TYPE_CHECKING

import numpy as np

if TYPE_CHECKING:
    import numpy.typing as npt
    from tokenizers import Tokenizer

    from embank.embed.engine import TokenIds

_BLANK = "▁"
_NORMALIZER = (
    '{"type":"Sequence","normalizers":[{"type":"Prepend","prepend":"▁"},'
    '{"type":"Replace","pattern":{"String":" "},"content":"▁"}]}'
)
_BYTE_TOKEN = re.compile("<0x[0-9A-F]{2}>")
_PLACES = 1 << 17
TABLE_BYTES = 32 * _PLACES
"""What is remembered of a fragment takes 32 bytes: a key of 16, and up to eight ids of 16 bits."""
# A key is the fragment itself and, in its last byte, its length: two fragments never have the same.
_KEY_BYTES = 15
_ENTRY_IDS = 8
_NO_ID = 0xFFFF
_NO_IDS = 0xFFFF_FFFF_FFFF_FFFF
# The library's encodings are large: so many are made at a time.
_LEARNT_AT_ONCE = 1024
# By length, the bits that a fragment has of the first and of the second eight bytes read at its beginning.
_LOW_BITS = np.array([(1 << 8 * min(length, 8)) - 1 for length in range(_KEY_BYTES + 2)], dtype=np.uint64)
_HIGH_BITS = np.array([(1 << 8 * min(max(length - 8, 0), 7)) - 1 for length in range(_KEY_BYTES + 2)], dtype=np.uint64)


class Fragments:
    """See the module. Thread-safe. Made by `in_fragments`."""

    def __init__(self, model: Tokenizer, seams: npt.NDArray[np.bool_], markers: Sequence[str], places: int) -> None:
        """`model` encodes without normalizer; `seams` says of two bytes (first + 256 * second) whether to cut there.

        A text with one of the `markers` in it can't be cut. At most `places` fragments, a power of two up to 2^32, are
        remembered.
        """
        self._model = model
        self._seams = seams
        self._markers = markers
        self._lock = threading.Lock()
        # Two words of key, of which the second is never 0, and two of ids. Guarded by the lock.
        self._table = np.zeros((places, 4), dtype=np.uint64)
        self._gives_way = 0

    def ids(self, texts: Sequence[str]) -> list[TokenIds | None]:
        """Ids of each text, without special tokens, as the tokenizer itself gives; None where it has to be asked.

        Works on all texts at once: what that takes for the time of the call is about 200 bytes a fragment.
        """
        joined = " ".join(("", *texts))
        if "" not in texts and not self._is_marked(joined):
            return [*self._ids_of_cut(texts, joined)]
        cut = [bool(text) and not self._is_marked(text) for text in texts]
        chosen = [text for text, is_cut in zip(texts, cut, strict=True) if is_cut]
        found = self._ids_of_cut(chosen, " ".join(("", *chosen)))
        return [next(found) if is_cut else None for is_cut in cut]

    def _is_marked(self, text: str) -> bool:
        return any(marker[0] in text and marker in text for marker in self._markers)  # a character is found faster

    def _ids_of_cut(self, texts: Sequence[str], joined: str) -> Iterator[TokenIds]:
        """`joined` has a blank before each text: the one that the normalizer puts there."""
        if not texts:
            return
        data = joined.encode()
        lengths = map(len, texts if len(data) == len(joined) else map(str.encode, texts))
        sizes = np.fromiter(lengths, np.intp, len(texts)) + 1
        flat, counts = self._flat_ids(data, np.cumsum(sizes) - sizes)
        stop = 0
        for count in counts.tolist():
            start, stop = stop, stop + count
            yield flat[start:stop]

    def _flat_ids(self, data: bytes, text_starts: npt.NDArray[np.intp]) -> tuple[TokenIds, npt.NDArray[np.int32]]:
        """The ids of all texts, and how many each text has."""
        size = len(data)
        padded = data + bytes(_KEY_BYTES + 1)  # so that every byte begins 16
        is_start = self._seams.take(np.ndarray(size, "<u2", padded, strides=(1,)))  # whether the next byte is a start
        is_start[text_starts - 1] = True  # the last one for the first text
        starts = np.concatenate([[0], np.flatnonzero(is_start[:-1]) + 1])
        lengths = np.diff(starts, append=size)
        kept = np.minimum(lengths, _KEY_BYTES + 1)
        eights = np.ndarray(size + 8, "<u8", padded, strides=(1,))
        keys = np.empty((2, len(starts)), dtype=np.uint64)
        keys[0] = eights.take(starts) & _LOW_BITS.take(kept)
        keys[1] = eights.take(starts + 8) & _HIGH_BITS.take(kept) | kept.astype(np.uint64) << np.uint64(56)
        entries, unknown = self._look_up(keys)
        entries[unknown, 2:] = _NO_IDS
        ids = np.ascontiguousarray(entries[:, 2:]).view(np.uint16).ravel()
        is_id = ids != _NO_ID
        counts = np.bitwise_count(is_id.view(np.uint64)).astype(np.int32)
        flat = ids.compress(is_id).astype(np.int32)
        if len(unknown):
            begins = (np.cumsum(counts) - counts)[unknown]
            ends = starts[unknown] + lengths[unknown]
            fragments = [data[start:end] for start, end in zip(starts[unknown].tolist(), ends.tolist(), strict=True)]
            learnt = self._learn(fragments, keys[:, unknown])
            counts[unknown] = [len(each) for each in learnt]
            flat = np.insert(flat, np.repeat(begins, counts[unknown]), [*chain.from_iterable(learnt)])
        return flat, np.add.reduceat(counts, np.searchsorted(starts, text_starts))

    def _look_up(self, keys: npt.NDArray[np.uint64]) -> tuple[npt.NDArray[np.uint64], npt.NDArray[np.intp]]:
        """The entry of each key, and of which there is none (what stands there then is another's)."""
        first, second = self._slots(keys)
        with self._lock:
            entries = self._table.take(first, axis=0)
            others = np.flatnonzero((entries[:, 0] != keys[0]) | (entries[:, 1] != keys[1]))
            entries[others] = elsewhere = self._table.take(second[others], axis=0)
        is_unknown = (elsewhere[:, 0] != keys[0, others]) | (elsewhere[:, 1] != keys[1, others])
        return entries, others[is_unknown]

    def _learn(self, fragments: list[bytes], keys: npt.NDArray[np.uint64]) -> list[list[int]]:
        """The ids of each of these fragments, by the tokenizer; those that fit into an entry are remembered."""
        places = {fragment: place for place, fragment in enumerate(fragments)}
        ids: dict[bytes, list[int]] = {}
        waiting = iter(places)
        while group := list(islice(waiting, _LEARNT_AT_ONCE)):
            texts = [fragment.decode().replace(" ", _BLANK) for fragment in group]
            encodings = self._model.encode_batch_fast(texts, add_special_tokens=False)
            ids.update((fragment, encoding.ids) for fragment, encoding in zip(group, encodings, strict=True))
        fitting = [
            place
            for fragment, place in places.items()
            if len(fragment) <= _KEY_BYTES and len(ids[fragment]) <= _ENTRY_IDS
        ]
        if fitting:
            self._remember(keys[:, fitting], [ids[fragments[place]] for place in fitting])
        return [ids[fragment] for fragment in fragments]

    def _remember(self, keys: npt.NDArray[np.uint64], ids: list[list[int]]) -> None:
        entries = np.full((len(ids), 4), _NO_IDS, dtype=np.uint64)
        entries[:, :2] = keys.T
        counts = np.fromiter(map(len, ids), np.intp, len(ids))
        is_id = np.arange(_ENTRY_IDS) < counts[:, np.newaxis]
        entries[:, 2:].view(np.uint16)[is_id] = [*chain.from_iterable(ids)]
        slots = self._slots(keys)
        with self._lock:
            taken = [self._table[each, 1] != 0 for each in slots]
            # Now the one, now the other, so that nothing stays that nobody asks for.
            self._gives_way ^= 1
            second = taken[0] & (~taken[1] | bool(self._gives_way))
            self._table[np.where(second, slots[1], slots[0])] = entries

    def _slots(self, keys: npt.NDArray[np.uint64]) -> tuple[npt.NDArray[np.intp], npt.NDArray[np.intp]]:
        """Each key's two places in the table, by a multiplicative hash."""
        mixed = keys[0] * np.uint64(0x9E3779B97F4A7C15) ^ keys[1] * np.uint64(0xC2B2AE3D27D4EB4F)
        mixed ^= mixed >> np.uint64(32)
        mixed *= np.uint64(0xD6E8FEB86659FD93)
        bits = len(self._table).bit_length() - 1
        first, second = mixed >> np.uint64(64 - bits), mixed >> np.uint64(64 - 2 * bits)
        return first.astype(np.intp), second.astype(np.intp) & (len(self._table) - 1)


def in_fragments(tokenizer: Tokenizer, *, vocabulary: int, places: int = _PLACES) -> Fragments | None:
    """`Fragments` over a tokenizer, or None for one of which it can't be shown to be exact.

    So also where it has an id that is not below `vocabulary`.
    """
    from tokenizers import Tokenizer
    from tokenizers.models import BPE

    model = tokenizer.model
    if (
        not isinstance(model, BPE)
        or not model.byte_fallback
        or model.dropout
        or model.continuing_subword_prefix
        or model.end_of_word_suffix
        or model.ignore_merges
        or tokenizer.pre_tokenizer is not None
        or tokenizer.normalizer is None
        or tokenizer.normalizer.__getstate__().decode() != _NORMALIZER
    ):
        return None
    added = tokenizer.get_added_tokens_decoder().values()
    tokens = tokenizer.get_vocab()
    # Bytes that have no token would be unknown, and neighbouring unknown ones become one; byte tokens that are part of
    # another could be merged.
    byte_tokens = {f"<0x{byte:02X}>" for byte in range(256)}
    others = [token for token in tokens if token not in byte_tokens]
    if (
        any(token.normalized for token in added)
        or max(tokens.values()) >= min(vocabulary, _NO_ID)
        or not byte_tokens <= tokens.keys()
        or any(_BYTE_TOKEN.search(token) for token in others)
    ):
        return None
    markers = [*(token.content for token in added), _BLANK]
    return Fragments(Tokenizer(model), _seams(others), markers, places)


def _seams(tokens: Sequence[str]) -> npt.NDArray[np.bool_]:
    """As `Fragments` takes them, bool (65,536,): two bytes that are of two characters, and neighbours in no token."""
    data = b"\xff".join(token.replace(_BLANK, " ").encode() for token in tokens)  # no byte of a text is 0xFF
    seams = np.ones(1 << 16, dtype=np.bool_)
    seams[np.ndarray(len(data) - 1, "<u2", data, strides=(1,))] = False
    seams[0x80 << 8 : 0xC0 << 8] = False  # the second byte goes on with a character
    return seams
