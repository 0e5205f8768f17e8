"""Types generated for Go and Rust compile, and lose nothing of any recorded message.

Needs node, the npm registry, `go`, and `cargo` with serde in a folder of crates (Debian: golang-go, cargo,
librust-serde-derive-dev, librust-serde-json-dev).
"""

import json
import os
from collections.abc import Iterator
from datetime import datetime
from pathlib import Path
from typing import Any

import pytest

from tests.generators.workshop import generate, need, run
from tests.support.repository.asyncapi import DOCUMENT, recorded_messages

CRATES = Path(os.environ.get("CARGO_CRATES", "/usr/share/cargo/registry"))
MESSAGES = sorted(DOCUMENT["components"]["messages"])
GO_MAIN = """package main

import (
    "bufio"
    "bytes"
    "encoding/json"
    "fmt"
    "os"
)

func strict(data []byte, into any) string {
    decoder := json.NewDecoder(bytes.NewReader(data))
    decoder.DisallowUnknownFields()
    if err := decoder.Decode(into); err != nil {
        return err.Error()
    }
    out, err := json.Marshal(into)
    if err != nil {
        return err.Error()
    }
    return string(out)
}

func main() {
    lines := bufio.NewScanner(os.Stdin)
    lines.Buffer(nil, 64 << 20)
    for lines.Scan() {
        name, data, _ := bytes.Cut(lines.Bytes(), []byte(" "))
        switch string(name) {
%s
        default:
            fmt.Println("no type " + string(name))
        }
    }
}
"""
RUST_MAIN = """#[allow(dead_code)]
mod types;
use std::io::BufRead;

fn strict<T: serde::de::DeserializeOwned + serde::Serialize>(data: &str) -> String {
    match serde_json::from_str::<T>(data) {
        Ok(value) => serde_json::to_string(&value).unwrap(),
        Err(error) => error.to_string(),
    }
}

fn main() {
    for line in std::io::stdin().lock().lines() {
        let line = line.unwrap();
        let (name, data) = line.split_once(' ').unwrap();
        println!("{}", match name {
%s
            _ => format!("no type {}", name),
        });
    }
}
"""
CARGO = """[package]
name = "decode"
version = "0.0.0"
edition = "2021"

[dependencies]
serde = { version = "1", features = ["derive"] }
serde_json = "1"
"""
pytestmark = pytest.mark.timeout(600)


def decoded(program: Path) -> None:
    """What it prints of each message that it is given says as much as the message."""
    messages = recorded_messages()
    assert {name for name, _ in messages} == set(MESSAGES)
    lines = "".join(f"{name} {json.dumps(body)}\n" for name, body in messages)
    replies = run(program, cwd=program.parent, stdin=lines).splitlines()
    assert len(replies) == len(messages)
    for (name, body), reply in zip(messages, replies, strict=True):
        assert reply.startswith("{"), (name, reply)
        missing = list(lost(body, json.loads(reply)))
        assert not missing, (name, missing[:5])


def lost(sent: Any, kept: Any, path: str = "$") -> Iterator[str]:
    """Paths of what is in the one and is not, or not the same, in the other. A field that is null may be left out."""
    if isinstance(sent, dict) and isinstance(kept, dict):
        for name, value in sent.items():
            if value is not None or kept.get(name) is not None:
                yield from lost(value, kept.get(name), f"{path}.{name}")
    elif isinstance(sent, list) and isinstance(kept, list) and len(sent) == len(kept):
        for number, (one, other) in enumerate(zip(sent, kept, strict=True)):
            yield from lost(one, other, f"{path}[{number}]")
    elif sent != kept and not (sent in ({}, []) and kept is None) and not same_time(sent, kept):
        yield path


def same_time(sent: Any, kept: Any) -> bool:
    """Go leaves out the milliseconds of a full second."""
    try:
        return datetime.fromisoformat(sent) == datetime.fromisoformat(kept)
    except (TypeError, ValueError):
        return False


def test_go_decodes_every_recorded_message(workshop: Path) -> None:
    """With its standard library, unknown fields refused."""
    folder = workshop / "go"
    folder.mkdir()
    go = need("go")
    generate(workshop, "go", folder / "types.go")
    cases = "\n".join(
        f'        case "{name}":\n            fmt.Println(strict(data, new({name})))' for name in MESSAGES
    )
    (folder / "main.go").write_text(GO_MAIN % cases)
    (folder / "go.mod").write_text("module decode\n\ngo 1.18\n")
    run(go, "build", "-o", "decode", ".", cwd=folder)
    decoded(folder / "decode")


def test_rust_decodes_every_recorded_message(workshop: Path) -> None:
    """With serde."""
    folder = workshop / "rust"
    (folder / "src").mkdir(parents=True)
    (folder / ".cargo").mkdir()
    cargo = need("cargo")
    if not CRATES.is_dir():
        pytest.fail(f"{CRATES} is not there: CARGO_CRATES names a folder of crates")
    generate(workshop, "rust", folder / "src/types.rs")
    cases = "\n".join(f'            "{name}" => strict::<types::{name}>(data),' for name in MESSAGES)
    (folder / "src/main.rs").write_text(RUST_MAIN % cases)
    (folder / "Cargo.toml").write_text(CARGO)
    source = f'[source.crates-io]\nreplace-with = "folder"\n[source.folder]\ndirectory = "{CRATES}"\n'
    (folder / ".cargo/config.toml").write_text(source)
    run(cargo, "build", "--quiet", "--offline", cwd=folder)
    decoded(folder / "target/debug/decode")
