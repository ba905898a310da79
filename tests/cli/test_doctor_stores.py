"""What `gtask doctor --app` finds at a result store that is no part of a job server."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from gtask.testing.databases import redis
from gtask.testing.embedded import EmbeddedServer
from gtask.testing.programs import free_port
from gtask.testing.requirements import require, require_module
from gtask.testing.stores import store_url
from tests.cli.runs import gtask


def app_with(folder: Path, url: str) -> None:
    task = "\n\n@app.task\ndef add(a, b):\n    return a + b\n"
    (folder / "shop.py").write_text(f"from gtask import App\n\napp = App('shop', results={url!r})\n{task}")


def test_a_redis_that_evicts_is_serious(tmp_path: Path, gtask_server: EmbeddedServer) -> None:
    require("redis-server", package="redis-server")
    require_module("redis", "redis")
    with redis("--maxmemory", "100mb", "--maxmemory-policy", "allkeys-lfu") as server:
        app_with(tmp_path, store_url(server))
        done = gtask("doctor", "--app", "shop:app", "--json", cwd=tmp_path, servers=gtask_server.url)
        assert done.returncode == 1
        found = json.loads(done.stdout)
        assert found["ok"] is False
        assert [one["code"] for one in found["app"]] == ["store-eviction", "store-persistence", "tasks"]


@pytest.mark.parametrize("scheme", ["redis", "postgresql+psycopg"])
def test_a_store_that_is_away_is_serious(scheme: str, tmp_path: Path, gtask_server: EmbeddedServer) -> None:
    require_module("redis" if scheme == "redis" else "psycopg", "redis" if scheme == "redis" else "sql")
    app_with(tmp_path, f"{scheme}://me:secret@127.0.0.1:{free_port()}/0")
    done = gtask("doctor", "--app", "shop:app", cwd=tmp_path, servers=gtask_server.url)
    assert done.returncode == 1
    assert "cannot be reached" in done.stdout
    assert "secret" not in done.stdout + done.stderr


def test_a_store_that_is_sound(tmp_path: Path, gtask_server: EmbeddedServer) -> None:
    app_with(tmp_path, "sqlite:///results.db")
    done = gtask("doctor", "--app", "shop:app", cwd=tmp_path, servers=gtask_server.url)
    assert (done.returncode, done.stderr) == (0, "")
    assert "store" not in done.stdout


def test_a_worker_does_not_start_without_its_store(tmp_path: Path, gtask_server: EmbeddedServer) -> None:
    """It says why in a sentence."""
    require_module("redis", "redis")
    app_with(tmp_path, f"redis://127.0.0.1:{free_port()}/0")
    done = gtask("worker", "shop:app", "-c", "1", cwd=tmp_path, servers=gtask_server.url)
    assert done.returncode != 0
    assert "see whether it runs there" in done.stderr + done.stdout
    assert "Traceback" not in done.stderr + done.stdout
