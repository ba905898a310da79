"""`gtask dead`: what failed for good is listed, shown, sent again and dropped, on both job servers."""

from __future__ import annotations

import json
import subprocess
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import click
import pytest

from gtask import App
from gtask.cli.dead import read_age
from gtask.client import Client
from gtask.letters import Attempt, Letter, encode_letter
from gtask.results import SqliteStore
from gtask.states import ErrorInfo
from gtask.types import Submission
from gtask.worker.job import Ending
from tests.app.helpers import run_one, seal
from tests.cli.runs import gtask, only_line, write_app

APP = """
from gtask import App

app = App("shop", results="sqlite:///results.db")
"""

FOREIGN = Letter(
    id="a" * 32,
    task="pay",
    task_id="a" * 32,
    function="pay",
    unique="a" * 32,
    message=b"\xff",
    error=ErrorInfo("Evil\x1b[2J", "red\x1b[31m\n" + "x" * 300, None, "line\x1b[0m\nnext"),
    failed_at=1.7e9,
    refused=True,
)


class Shop:
    """A job server with letters of the task `pay`, and a folder with the app."""

    def __init__(self, server: Any, folder: Path) -> None:
        self.server = server
        self.folder = write_app(folder, APP)
        self.app = App("shop", servers=server.url, results=SqliteStore(folder / "results.db"))

        @self.app.task(max_retries=0)
        def pay(order: int, note: str = "") -> None:
            raise ValueError(f"order {order}")

    def fail(self, count: int) -> list[str]:
        """Parks so many tasks; returns their ids."""
        submissions = [seal(self.app, self.app.tasks["pay"].s(number, note="größer")) for number in range(count)]
        for submission in submissions:
            ending = run_one(self.app, submission)
            assert isinstance(ending, Ending)
            self.submit(ending.optional[0])
        return [submission.unique for submission in submissions]

    def submit(self, submission: Submission) -> None:
        """Puts a job into a queue."""
        with Client(self.app.servers) as client:
            client.submit(submission)

    def park(self, letter: Letter) -> None:
        """Puts a letter into the queue."""
        self.submit(Submission("pay.dead", encode_letter(letter)))

    def run(self, *args: str) -> subprocess.CompletedProcess[str]:
        """Runs ``gtask dead`` in the folder."""
        return gtask("dead", *args, cwd=self.folder, servers=self.server.url)

    def json(self, *args: str) -> Any:
        """What it prints with ``--json``."""
        done = self.run(*args, "--json")
        assert (done.returncode, done.stderr) == (0, "")
        return json.loads(done.stdout)

    def ids(self) -> list[str]:
        """The tasks of the letters that are there."""
        return [letter["task_id"] for letter in self.json("list", "pay")["letters"]]


@pytest.fixture
def shop(any_server: Any, tmp_path: Path) -> Iterator[Shop]:
    made = Shop(any_server, tmp_path)
    with made.app:
        yield made


def test_the_tasks_that_have_letters(shop: Shop) -> None:
    assert shop.run("list").stdout == "No task has dead letters.\n"
    assert shop.json("list") == {"queues": []}
    shop.fail(3)
    (line,) = [line for line in shop.run("list").stdout.splitlines() if line.startswith("pay")]
    assert line.split() == ["pay", "3", shop.server.url]
    assert shop.json("list") == {"queues": [{"task": "pay", "server": shop.server.url, "letters": 3}]}


def test_the_letters_of_a_task(shop: Shop) -> None:
    assert shop.run("list", "pay").stdout == "pay has no dead letters.\n"
    ids = shop.fail(3)
    done = shop.run("list", "pay", "--limit", "2")
    assert [line.split()[0] for line in done.stdout.splitlines()[2:]] == [*ids[:2], "and"]
    assert "ValueError: order 1" in done.stdout
    assert "and 1 more" in done.stdout
    listed = shop.json("list", "pay")
    assert (listed["task"], listed["total"]) == ("pay", 3)
    first = listed["letters"][0]
    assert first["error"] == {"type": "ValueError", "message": "order 0"}
    assert (first["id"], first["worker"], first["retries"]) == (ids[0], "worker:1", 0)
    assert shop.ids() == ids


def test_a_letter_in_full(shop: Shop) -> None:
    ids = shop.fail(2)
    done = shop.run("show", "pay", ids[1])
    assert done.returncode == 0
    rows = dict(line.split(maxsplit=1) for line in done.stdout.splitlines()[:8])
    assert rows["id"] == ids[1]
    assert rows["error"] == "ValueError: order 1"
    assert rows["args"] == "[1]"
    assert rows["kwargs"] == "{'note': 'größer'}"
    assert "raise ValueError" in done.stdout
    assert ids[0] not in done.stdout
    (full,) = shop.json("show", "pay", ids[1])["letters"]
    assert (full["args"], full["kwargs"]) == ([1], {"note": "größer"})
    assert "raise ValueError" in full["error"]["traceback"]
    assert full["headers"]["task"] == "pay"
    assert shop.ids() == ids


def test_what_was_tried_before_is_shown(shop: Shop) -> None:
    shop.park(replace(FOREIGN, history=(Attempt("OSError", "the first", 1.6e9), Attempt("OSError", "then", 1.65e9))))
    lines = [line for line in shop.run("show", "pay", "a" * 32).stdout.splitlines() if line.startswith("earlier")]
    assert [line.split("OSError: ")[1] for line in lines] == ["the first", "then"]


def test_letters_are_sent_again(shop: Shop) -> None:
    ids = shop.fail(4)
    done = shop.run("retry", "pay", ids[1], "--app", "app:app")
    assert (done.returncode, done.stdout, done.stderr) == (0, "1 letter was sent again, 3 left.\n", "")
    assert shop.ids() == [ids[0], ids[2], ids[3]]
    done = shop.run("retry", "pay", "--all", "--app", "app:app", "--json")
    assert json.loads(done.stdout) == {"task": "pay", "retried": 3, "dropped": 0, "failed": []}
    assert shop.ids() == []
    (row,) = [line for line in shop.server.admin("status") if line.startswith("pay\t")]
    assert row.split("\t")[1] == "4"


def test_the_app_with_the_results_has_to_be_named(shop: Shop) -> None:
    (id,) = shop.fail(1)
    done = shop.run("retry", "pay", "--all")
    assert done.returncode == 1
    assert "kept in a SqliteStore, and this app has a GearmanStore" in done.stderr
    assert len(done.stderr.splitlines()) == 1
    assert shop.ids() == [id]


def test_letters_are_dropped(shop: Shop) -> None:
    ids = shop.fail(4)
    assert shop.run("drop", "pay", ids[3], ids[0]).stdout == "2 letters were dropped, 2 left.\n"
    assert shop.ids() == ids[1:3]
    assert shop.run("drop", "pay", "--all").stdout == "2 letters were dropped, 0 left.\n"


def test_age_decides(shop: Shop) -> None:
    ids = shop.fail(1)
    shop.park(FOREIGN)
    assert shop.json("list", "pay", "--older-than", "1h")["total"] == 1
    assert shop.run("drop", "pay", "--older-than", "30d").stdout == "1 letter was dropped, 1 left.\n"
    assert shop.run("drop", "pay", "--all", "--older-than", "30d").stdout == "0 letters were dropped, 1 left.\n"
    assert shop.ids() == ids


def test_an_id_that_is_not_there(shop: Shop) -> None:
    (id,) = shop.fail(1)
    for command in ("show", "retry", "drop"):
        done = shop.run(command, "pay", "nosuch", "--app", "app:app")
        assert done.returncode == 1
        assert f"gtask dead {command}: pay has no letter nosuch; see `gtask dead list pay`." in done.stderr
    assert shop.ids() == [id]


def test_what_others_have_put_there_gives_the_terminal_no_orders(shop: Shop) -> None:
    shop.park(FOREIGN)
    shop.submit(Submission("pay.dead", b"\x1b[31mno letter"))
    listed = shop.run("list", "pay")
    assert "\x1b" not in listed.stdout
    assert "no letter: " in listed.stdout
    assert "\x1b" not in shop.run("show", "pay", "a" * 32).stdout
    letters = shop.json("list", "pay")["letters"]
    assert letters[1]["problem"]
    unknown = letters[1]["id"]
    assert "\x1b" not in shop.run("show", "pay", unknown).stdout
    done = shop.run("retry", "pay", unknown)
    assert f"{unknown} is no letter and stays" in done.stderr
    assert shop.run("drop", "pay", unknown).stdout == "1 letter was dropped, 1 left.\n"


def test_a_full_queue_is_said_to_be_full(shop: Shop) -> None:
    shop.fail(2)
    shop.server.admin("maxqueue pay.dead 2")
    assert "`maxqueue pay.dead 3`" in only_line(shop.run("list", "pay"), 1)
    assert shop.run("drop", "pay", "--all").stdout == "2 letters were dropped, 0 left.\n"


@pytest.mark.parametrize(
    ("args", "text"),
    [
        (["retry", "pay"], "Say which: gtask dead retry pay ID..., or --all, or --older-than 7d."),
        (["drop", "pay", "x", "--all"], "leave the ids away, or --all"),
        (["show", "pay"], "Missing argument 'ID...'"),
        (["drop", "pay", "--older-than", "soon"], "write for instance 90s, 15m, 12h or 7d"),
        (["list", "pay", "--limit", "0"], "0 is not in the range"),
        (["bury", "pay"], "No such command 'bury'"),
    ],
    ids=" ".join,
)
def test_wrong_usage_is_one_line(args: list[str], text: str, tmp_path: Path) -> None:
    assert text in only_line(gtask("dead", *args, cwd=tmp_path, servers="127.0.0.1:1"), 2)


def test_a_job_server_that_is_away_is_one_line(tmp_path: Path) -> None:
    for args in (["list"], ["list", "pay"], ["drop", "pay", "--all"]):
        assert "could not be reached" in only_line(gtask("dead", *args, cwd=tmp_path, servers="127.0.0.1:1"), 1)


def test_ages() -> None:
    ctx, param = click.Context(click.Command("x")), click.Option(["--x"])
    ages = {"90": 90, "90s": 90, "1.5h": 5400, "15 m": 900, "2min": 120, "7D": 604800, "1w": 604800}
    for text, seconds in ages.items():
        assert read_age(ctx, param, text) == seconds
    assert read_age(ctx, param, None) is None
