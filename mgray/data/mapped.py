"""Tables of items as Arrow files that are mapped into memory: opening one reads no item, and every process of a machine
shares its pages.
"""

import os
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any, overload

import numpy as np
import numpy.typing as npt
import pyarrow as pa

ITERATED_TEXTS = 2**16  # that are Python strings at once while a column is read through


def write_mapped(table: pa.Table, path: Path) -> None:
    """Write a table as one Arrow record batch, so that each column is one run of bytes."""
    with path.open("wb") as sink:
        with pa.ipc.new_file(sink, table.schema) as writer:
            writer.write_table(table.combine_chunks())
        sink.flush()
        os.fsync(sink.fileno())


def read_mapped(path: Path) -> pa.Table:
    """A map of a table that `write_mapped` wrote. The file may be removed meanwhile, but not written anew in place."""
    with pa.memory_map(str(path)) as source:
        return pa.ipc.open_file(source).read_all()


def number_view(table: pa.Table, name: str) -> npt.NDArray[Any]:
    """The numbers of a column without nulls, not copied where it is one run of bytes."""
    found: npt.NDArray[Any] = _one_array(table[name]).to_numpy(zero_copy_only=False)
    return found


def _one_array(column: pa.ChunkedArray) -> pa.Array:
    """A column as one array; a copy only where it is in several runs, which `combine_chunks` makes of one too."""
    return column.chunk(0) if column.num_chunks == 1 else column.combine_chunks()


def text_array(texts: Sequence[str]) -> pa.Array:
    """Texts as one Arrow array, large_string; a TextColumn's own is not copied."""
    if isinstance(texts, TextColumn):
        return texts.to_arrow()
    return pa.array(texts, pa.large_string())


class TextColumn(Sequence[str]):
    """A sequence of texts that stay in Arrow: an element becomes a Python string when it is asked for.

    Equal to any sequence of the same texts. A slice is a list.
    """

    def __init__(self, *columns: pa.Array | pa.ChunkedArray, instead: "TextColumn | None" = None) -> None:
        """columns: large_string, one after the other; instead: what stands for a null or empty text, by place."""
        chunks = [chunk for one in columns for chunk in (one.chunks if isinstance(one, pa.ChunkedArray) else [one])]
        self._texts = pa.chunked_array(chunks, pa.large_string())
        self._instead = instead

    @classmethod
    def of(cls, texts: Sequence[str]) -> "TextColumn":
        return texts if isinstance(texts, TextColumn) else cls(text_array(texts))

    def __len__(self) -> int:
        return len(self._texts)

    @overload
    def __getitem__(self, place: int) -> str: ...

    @overload
    def __getitem__(self, place: slice) -> list[str]: ...

    def __getitem__(self, place: int | slice) -> str | list[str]:
        if isinstance(place, slice):
            return self.take(np.arange(*place.indices(len(self))))
        at = int(place) + (len(self) if place < 0 else 0)
        text: str | None = self._texts[at].as_py()
        if not text and self._instead is not None:
            return self._instead[at]
        assert text is not None, "a column with nulls says what stands instead"
        return text

    def __iter__(self) -> Iterator[str]:
        for begin in range(0, len(self), ITERATED_TEXTS):
            texts = self._texts.slice(begin, ITERATED_TEXTS).to_pylist()
            if self._instead is None:
                yield from texts
            else:
                yield from (text or self._instead[begin + place] for place, text in enumerate(texts))

    def __eq__(self, other: object) -> bool:
        if not isinstance(other, Sequence):
            return NotImplemented
        return len(self) == len(other) and all(own == text for own, text in zip(self, other, strict=True))

    __hash__ = None  # type: ignore[assignment]  # it equals lists, which have none either

    def to_arrow(self) -> pa.Array:
        """The texts as one large_string array; a copy where they are in several runs, or stand instead of nulls."""
        if self._instead is not None:
            return pa.array(list(self), pa.large_string())
        return self.given()

    def given(self) -> pa.Array:
        """The texts as one array, null where another stands instead."""
        return _one_array(self._texts)

    def take(self, places: npt.NDArray[np.int64]) -> list[str]:
        """The texts at some places."""
        if self._instead is not None:
            return [self[int(place)] for place in places]
        texts = self._texts.chunk(0) if self._texts.num_chunks == 1 else self._texts  # in a quarter of the time
        found: list[str] = texts.take(pa.array(places)).to_pylist()
        return found
