"""What is done in Spark: run by the Python of an environment that has pyspark (and a Java); nothing here imports it.

in_spark.py corpus ROWS.json DIRECTORY   the rows, written in Spark's many ways
in_spark.py types DIRECTORY              parts of the types that Spark has: those in `parts/` were made so, by Spark 4.3
in_spark.py read DIRECTORY               of each directory below: how Spark reads column "x", as JSON on the output
"""

from __future__ import annotations

import importlib
import itertools
import json
import os
import re
import shutil
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from collections.abc import Callable

_LEGACY = {"spark.sql.parquet.writeLegacyFormat": "true"}
_STAMP = "spark.sql.parquet.outputTimestampType"

TYPES: dict[str, tuple[dict[str, str], list[str]]] = {
    "INT96": ({_STAMP: "INT96"}, ["timestamp'2026-01-08 12:30:15.123456'", "null", "timestamp'1900-01-01 00:00:00'"]),
    "timestamp us": ({_STAMP: "TIMESTAMP_MICROS"}, ["timestamp'2026-01-08 12:30:15.123456'", "null"]),
    "timestamp ms": ({_STAMP: "TIMESTAMP_MILLIS"}, ["timestamp'2026-01-08 12:30:15.123'", "null"]),
    "timestamp without a zone": ({}, ["timestamp_ntz'2026-01-08 12:30:15.123456'", "null"]),
    "date": ({}, ["date'2026-01-08'", "null"]),
    "byte": ({}, ["1Y", "null", "-128Y"]),
    "float": ({}, ["1.5F", "null", "float('NaN')"]),
    "binary": ({}, ["X'00FF'", "null"]),
    "decimal(5, 2)": ({}, ["cast(1.10 as decimal(5, 2))", "null"]),
    "decimal(5, 2) of old": (_LEGACY, ["cast(1.10 as decimal(5, 2))", "null", "cast(-999.99 as decimal(5, 2))"]),
    "decimal(15, 2) of old": (_LEGACY, ["cast(1.10 as decimal(15, 2))", "null"]),
    "decimal(30, 2)": ({}, ["cast(1.10 as decimal(30, 2))", "null"]),
    "array": ({}, ["array(1, null)", "null", "array()"]),
    "array of old": (_LEGACY, ["array(1, null)", "null", "array()"]),
    "array of old, of required": (_LEGACY, ["array(1, 2)", "array(3)"]),
    "map": ({}, ["map('a', 1, 'b', null)", "null"]),
    "map of old": (_LEGACY, ["map('a', 1, 'b', null)", "null"]),
    "struct": ({}, ["named_struct('a', 1S, 'b', 'x')", "null"]),
    "array of structs": ({}, ["array(named_struct('a', 1.5D))", "null"]),
    "interval": ({}, ["interval '3' day", "null"]),
    "time": ({"spark.sql.timeType.enabled": "true"}, ["time'12:30:15.123456'", "null"]),
    "variant": ({}, ["parse_json('{\"a\": 1}')", "null"]),
    "required": ({}, ["1", "2"]),
}
"""By name: the session's settings, and the values of column "x" as SQL has them."""

_KINDS = {
    "ts_event": "long",
    "origin": "long",
    "venue": "string",
    "side": "byte",
    "price": "double",
    "trade_id": "string",
}


def file_name(name: str, first: int) -> str:
    """Of a part of that type, whose time stamps begin there."""
    return f"{re.sub(r'[^A-Za-z0-9]+', '-', name).strip('-')}-{first}.parquet"


def _session() -> Any:
    builder = importlib.import_module("pyspark.sql").SparkSession.builder.master("local[1]")
    for name, value in {
        "spark.ui.enabled": "false",
        "spark.ui.showConsoleProgress": "false",
        "spark.driver.host": "127.0.0.1",
        "spark.driver.bindAddress": "127.0.0.1",
        "spark.sql.session.timeZone": "UTC",
    }.items():
        builder = builder.config(name, value)
    session = builder.getOrCreate()
    session.sparkContext.setLogLevel("ERROR")
    return session


def _write(frame: Any, file: Path, options: dict[str, str]) -> None:
    directory = file.with_suffix("")
    frame.coalesce(1).write.options(**options).parquet(str(directory))
    [written] = directory.glob("*.parquet")
    os.replace(written, file)  # noqa: PTH105
    shutil.rmtree(directory)


def corpus(source: Path, target: Path) -> None:
    """The rows of the corpus, in every compression, page version and size, with dictionaries and without."""
    session = _session()
    rows = [[row.get(name) for name in _KINDS] for row in json.loads(source.read_text())["data"]]
    frame = session.createDataFrame(rows, ", ".join(f"{name} {kind}" for name, kind in _KINDS.items()))
    for codec, version, dictionary, page in itertools.product(
        ("none", "snappy", "gzip", "zstd", "lz4_raw"), ("1_0", "2_0"), ("true", "false"), ("64", "1048576")
    ):
        options = {
            "compression": codec,
            "parquet.writer.version": f"PARQUET_{version}",
            "parquet.enable.dictionary": dictionary,
            "parquet.page.size": page,
            "parquet.page.size.row.check.min": "4",
        }
        _write(frame, target / f"{codec}-{version}-{dictionary}-{page}.parquet", options)


def types(target: Path) -> None:
    """Two parts of each type: of time stamps from 0 on, and from 100 on."""
    session = _session()
    for name, (settings, values) in TYPES.items():
        for setting, value in settings.items():
            session.conf.set(setting, value)
        for first in (0, 100):
            rows = ", ".join(f"({first + at}L, {value})" for at, value in enumerate(values))
            query = f"select at as ts_event, at as timestamp_ms, x from values {rows} as rows(at, x)"  # noqa: S608
            _write(session.sql(query), target / file_name(name, first), {"compression": "none"})
        for setting in settings:
            session.conf.unset(setting)


def read(directory: Path) -> None:
    """How the files of each directory below are read together."""
    session = _session()
    found: dict[str, list[str]] = {}
    for path in sorted(directory.iterdir()):
        try:
            frame = session.read.parquet(str(path)).orderBy("ts_event")
            values = [repr(row["x"]) for row in frame.selectExpr("cast(x as string) as x").collect()]
            found[path.name] = [frame.schema["x"].dataType.simpleString(), " ".join(values)]
        except Exception as error:  # noqa: BLE001 - whatever Spark says of a file that it does not read
            found[path.name] = ["cannot", str(error).splitlines()[0][:200]]
    sys.stdout.write(json.dumps({"version": session.version, "read": found}))


if __name__ == "__main__":
    work: dict[str, Callable[..., None]] = {"corpus": corpus, "types": types, "read": read}
    work[sys.argv[1]](*map(Path, sys.argv[2:]))
