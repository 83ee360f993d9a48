"""Search among ECGs, by a text or by another ECG: embeddings in LanceDB, in a folder or an object store.

An index holds one row per ECG: its id, file, unit vector and metadata, and which weights made the vectors. Vectors are
compared by their cosine, exactly (every row is looked at) or through an inverted-file index with quantised vectors
(Jégou et al., "Product quantization for nearest neighbor search", TPAMI 33:117, 2011), whose loss `measure_recall`
measures on the index itself. LanceDB (https://lancedb.github.io/lancedb/) runs in this process; `s3://`, `gs://` and
`az://` work as folders do, with its `storage_options` or the environment variables of the store.

What is nearest to a text or an ECG is like it to the model. It is no diagnosis.
"""

import json
import os
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np

from .inference import embed_text
from .record import DISCLAIMER

if TYPE_CHECKING:
    import pandas as pd
    import pyarrow as pa

TABLE = "ecgs"
ANN_FROM = 50_000
"""Rows from which `merit-ecg index` builds the approximate index; below, an exact search is fast enough."""


class Recall(NamedTuple):
    """How much of the exact answer the approximate one holds.

    Args:
        value (`float`): Mean share of the `k` nearest that are found.
        k (`int`), queries (`int`): Of how many neighbours, over how many queries.
    """

    value: float
    k: int
    queries: int


class EcgIndex:
    """An index of ECGs, opened for search and additions.

    Args:
        place (`str`): Folder or URL of the index.
        storage_options (mapping, *optional*): Keys and endpoint of an object store, as LanceDB takes them.

    Raises:
        ImportError: If LanceDB is not installed.
        FileNotFoundError: If there is no index; `create` makes one.

    Example:

    >>> import tempfile
    >>> with tempfile.TemporaryDirectory() as folder:
    ...     index = EcgIndex.create(folder, {"weights": "f00"})
    ...     vectors = np.eye(3, 16, dtype=np.float32)
    ...     rows = {"record_id": ["a", "b", "c"], "embedding": list(vectors), "age": [50.0, 70.0, 80.0]}
    ...     added = index.add(rows), index.add(rows)  # what is there already is not added again
    ...     found = index.search(vectors[0], where="age > 60", k=1)
    >>> added, found[["record_id", "similarity"]].values.tolist()
    ((3, 0), [['b', 0.0]])
    """

    def __init__(
        self, place: str | os.PathLike, storage_options: Mapping[str, str] | None = None, *, _create: bool = False
    ) -> None:
        try:
            import lancedb
        except ImportError:
            raise ImportError('LanceDB is not installed. Install it: pip install "lancedb>=0.30,<1".') from None
        self.place = os.fspath(place)
        if not self.place or not (_create or "://" in self.place or os.path.isdir(self.place)):
            raise FileNotFoundError(f"There is no index {self.place!r}. Make it with `merit-ecg index`.")
        self._database = lancedb.connect(self.place, storage_options=dict(storage_options or {}) or None)
        self._table: Any = None
        if TABLE in self._database.list_tables().tables:
            self._table = self._database.open_table(TABLE)
        elif not _create:
            raise FileNotFoundError(f"{self.place!r} holds no index. Make it with `merit-ecg index`.")
        self._about: dict[str, Any] = {}

    @classmethod
    def create(
        cls,
        place: str | os.PathLike,
        about: Mapping[str, Any],
        storage_options: Mapping[str, str] | None = None,
    ) -> "EcgIndex":
        """Open an index to add to; make it with the first rows that are added.

        Args:
            place (`str`), storage_options: As of the class.
            about (mapping): What made the vectors; `weights` must be those of the index that is there.

        Raises:
            ValueError: If the index that is there holds vectors of other weights.
        """
        index = cls(place, storage_options, _create=True)
        index._about = dict(about) | {"disclaimer": DISCLAIMER}
        if index._table is not None:
            index.check_weights(about.get("weights"))
        return index

    def __len__(self) -> int:
        return 0 if self._table is None else self._table.count_rows()

    @property
    def about(self) -> dict[str, Any]:
        """What made the vectors: `model`, the checkpoint as it was named, and `weights`, its fingerprint."""
        if self._table is None:
            return dict(self._about)
        return json.loads((self._table.schema.metadata or {}).get(b"merit_ecg", b"{}"))

    @property
    def columns(self) -> list[str]:
        """Names of the columns for `where`, without the vectors."""
        return [] if self._table is None else [name for name in self._table.schema.names if name != "embedding"]

    def check_weights(self, weights: str | None) -> None:
        """Refuse a model other than the one that made the vectors.

        Raises:
            ValueError: If the fingerprints differ.
        """
        if (own := self.about.get("weights")) != weights:
            raise ValueError(
                f"{self.place!r} holds vectors of the weights {own!r}, but those of this model are {weights!r}. Use "
                f"the model of the index ({self.about.get('model')!r}), or make another index."
            )

    def ids(self) -> set[str]:
        """Return the ids of all ECGs in the index."""
        return set(self.files())

    def files(self) -> dict[str, str | None]:
        """Return the files of all ECGs in the index by id, `None` where it does not say them."""
        if self._table is None:
            return {}
        columns = [name for name in ("record_id", "file") if name in self.columns]
        rows = self._table.search().select(columns).limit(len(self)).to_arrow()
        ids = rows["record_id"].to_pylist()
        return dict(zip(ids, rows["file"].to_pylist())) if "file" in columns else dict.fromkeys(ids)

    def add(self, rows: "Mapping[str, Sequence] | pd.DataFrame | pa.Table") -> int:
        """Add the ECGs that are not there yet; adding the same ones again changes nothing.

        Args:
            rows: A table with `record_id`, `embedding` (one vector per row, not zero; stored with length 1) and any
                metadata columns, which later additions must bring, too.

        Returns:
            `int`: How many were added.

        Raises:
            ValueError: If a column is missing or of another type, an id stands twice, or a vector has another length,
                is zero or not finite.
        """
        table = self._checked(rows)
        before = len(self)
        if not len(table):
            return 0
        if self._table is None:
            self._table = self._database.create_table(TABLE, table)
        else:
            self._table.merge_insert("record_id").when_not_matched_insert_all().execute(table)
        return len(self) - before

    def build_ann(self, quantizer: str = "sq", **settings: Any) -> None:
        """Build the approximate index over all rows, or build it anew; small tables have no need of it.

        Args:
            quantizer (`str`): How vectors are stored in the index: `"sq"`, a byte for every number, or `"pq"`, a byte
                for every 8 numbers, an eighth of that and coarser, for tens of millions of ECGs.
            settings: Fields of `lancedb.index.IvfSq` or `IvfPq`, such as `num_partitions`.

        Raises:
            ValueError: If there are fewer than 256 rows, from which no codebook can be learnt.
        """
        from lancedb.index import IvfPq, IvfSq

        if quantizer not in ("sq", "pq"):
            raise ValueError(f"Expected quantizer to be sq or pq, got {quantizer!r}.")
        if len(self) < 256:
            raise ValueError(f"Expected at least 256 ECGs for an approximate index, got {len(self)}: search exactly.")
        size = self._table.schema.field("embedding").type.list_size
        codes = {"num_sub_vectors": max(1, size // 8)} if quantizer == "pq" else {}
        config = (IvfPq if quantizer == "pq" else IvfSq)(**{"distance_type": "cosine"} | codes | settings)
        self._table.create_index("embedding", config=config, replace=True)

    @property
    def has_ann(self) -> bool:
        """Whether there is an approximate index."""
        return self._table is not None and any("embedding" in index.columns for index in self._table.list_indices())

    def optimize(self) -> None:
        """Merge small files and bring rows added since into the approximate index; searches find them before, too."""
        if self._table is not None:
            self._table.optimize()

    def search(
        self,
        vector: np.ndarray,
        k: int = 10,
        where: str | None = None,
        exact: bool = False,
        nprobes: int = 20,
        refine_factor: int = 10,
        columns: Sequence[str] | None = None,
    ) -> "pd.DataFrame":
        """Return the nearest ECGs.

        Args:
            vector (`np.ndarray` of shape `(size,)`): An ECG's or a text's, of any length but zero.
            k (`int`): How many.
            where (`str`, *optional*): SQL condition on the columns, such as `"age > 60 AND sex = 'female'"`. It holds
                for all results: rows are filtered before they are ranked.
            exact (`bool`): Look at every row, also where there is an approximate index.
            nprobes (`int`): Partitions of the approximate index that are looked at.
            refine_factor (`int`): `k` times so many candidates are ranked again by their whole vectors.
            columns (sequence of `str`, *optional*): Which to return; all but the vector by default.

        Returns:
            `pd.DataFrame`: Best first, with `similarity`, the cosine.

        Raises:
            ValueError: If the vector has another length, or the condition names no column of the index.
        """
        if self._table is None:
            raise ValueError(f"{self.place!r} is empty. Add ECGs first.")
        if k < 1:
            raise ValueError(f"Expected k of at least 1, got {k}.")
        size = self._table.schema.field("embedding").type.list_size
        vector = np.asarray(vector, dtype=np.float32).reshape(-1)
        if len(vector) != size or not np.isfinite(vector).all() or not vector.any():
            raise ValueError(f"Expected a finite vector of {size} numbers that are not all 0, got {len(vector)}.")
        query = self._table.search(vector, vector_column_name="embedding").distance_type("cosine").limit(k)
        query = query.bypass_vector_index() if exact else query.nprobes(nprobes).refine_factor(refine_factor)
        if where:
            query = query.where(where, prefilter=True)
        query = query.select([*(self.columns if columns is None else columns), "_distance"])
        try:
            found = query.to_pandas()
        except (ValueError, RuntimeError) as error:
            if not where:
                raise
            raise ValueError(
                f"Expected an SQL condition on the columns {', '.join(self.columns)}, got {where!r}: "
                # Without back ticks: in them stand arguments, which the command line shows as its options.
                + str(error).partition(", rust/")[0][:300].replace("`", "'")
            ) from None
        found["similarity"] = 1 - found.pop("_distance")
        return found

    def vectors(self, count: int, seed: int = 0) -> np.ndarray:
        """Return the vectors of so many rows drawn at random, `(count, size)`, float32."""
        places = np.sort(np.random.default_rng(seed).choice(len(self), min(count, len(self)), replace=False))
        rows = self._table.take_offsets(places.tolist()).select(["embedding"]).to_arrow()["embedding"]
        return rows.combine_chunks().flatten().to_numpy().reshape(len(places), -1)

    def measure_recall(self, k: int = 10, queries: int | np.ndarray = 100, seed: int = 0, **search: Any) -> Recall:
        """Return the share of the `k` exact neighbours that the approximate search finds.

        Args:
            k (`int`): Of how many neighbours.
            queries (`int` or `np.ndarray` of shape `(queries, size)`): How many rows are drawn as queries, or the
                queries.
            seed (`int`): Of that draw.
            search: Further arguments of `search`, such as `nprobes`.
        """
        vectors = self.vectors(queries, seed) if isinstance(queries, int) else queries
        shares = []
        for vector in vectors:
            exact, near = (
                set(self.search(vector, k, exact=is_exact, columns=["record_id"], **search)["record_id"])
                for is_exact in (True, False)
            )
            shares.append(len(exact & near) / len(exact))
        return Recall(float(np.mean(shares)), k, len(vectors))

    def _checked(self, rows: Any) -> "pa.Table":
        """Return rows as the Arrow table that the index stores."""
        import pandas as pd
        import pyarrow as pa

        if isinstance(rows, Mapping):
            rows = pd.DataFrame({name: list(column) for name, column in rows.items()})
        table = pa.Table.from_pandas(rows, preserve_index=False) if isinstance(rows, pd.DataFrame) else rows
        if missing := [name for name in ("record_id", "embedding") if name not in table.column_names]:
            raise ValueError(f"Expected the columns record_id and embedding, got none of {', '.join(missing)}.")
        ids = table["record_id"].to_pylist()
        if len(set(ids)) < len(ids):
            raise ValueError("Expected ids that differ, got one in two rows.")
        if not ids:
            return table
        lengths = np.unique(_lengths(table["embedding"])) if not table["embedding"].null_count else [np.nan]
        if len(lengths) != 1 or not lengths[0] > 0:
            found_lengths = ", ".join(map(str, lengths))
            raise ValueError(f"Expected a vector of the same length in every row, got lengths {found_lengths}.")
        size = int(lengths[0])
        vectors = table["embedding"].combine_chunks().flatten().to_numpy(zero_copy_only=False)
        vectors = vectors.astype(np.float32).reshape(len(ids), size)
        norms = np.linalg.norm(vectors, axis=1, keepdims=True)
        if not np.isfinite(norms).all() or not norms.all():
            raise ValueError("Expected finite vectors that are not zero, got others.")
        flat = pa.array((vectors / norms).reshape(-1))
        named = [(name, table[name]) for name in table.column_names if name != "embedding"]
        columns = {name: column.cast(pa.string()) if name == "record_id" else column for name, column in named}
        columns["embedding"] = pa.FixedSizeListArray.from_arrays(flat, size)
        found = pa.table(columns).replace_schema_metadata({"merit_ecg": json.dumps(self._about)})
        return self.as_stored(found)

    def as_stored(self, rows: "pa.Table") -> "pa.Table":
        """Return rows, with or without vectors, with columns in the order and of the types of the index.

        Raises:
            ValueError: If a column is missing, unknown or of another type.
        """
        import pyarrow as pa

        if self._table is None:
            return rows
        schema = self._table.schema
        if "embedding" not in rows.column_names:
            schema = schema.remove(schema.get_field_index("embedding"))
        if set(schema.names) != set(rows.column_names):
            missing = [name for name in schema.names if name not in rows.column_names]
            unknown = [name for name in rows.column_names if name not in schema.names]
            raise ValueError(
                f"Expected the columns of the index, {', '.join(schema.names)}, got "
                + " and ".join(
                    [f"no {', '.join(missing)}"] * bool(missing) + [f"besides {', '.join(unknown)}"] * bool(unknown)
                )
                + ". Give the same columns of metadata as before."
            )
        try:
            return rows.select(schema.names).cast(schema)
        except (pa.ArrowException, ValueError) as error:
            raise ValueError(f"Expected columns of the types of the index: {error}") from None


def _lengths(column: Any) -> np.ndarray:
    import pyarrow as pa
    import pyarrow.compute as pc

    if pa.types.is_fixed_size_list(column.type):
        return np.array([column.type.list_size])
    return pc.list_value_length(column).to_numpy()


__all__ = ["ANN_FROM", "EcgIndex", "Recall", "embed_text"]
