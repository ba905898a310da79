"""The apps whose tasks run too long, or kill their process; each test writes one to a folder of its own."""

PLAIN = """
import os, signal, time
from gtask import App, SoftTimeLimitExceeded

app = App("limits")


def note(line):
    descriptor = os.open("runs.txt", os.O_WRONLY | os.O_CREAT | os.O_APPEND)
    os.write(descriptor, f"{line}\\n".encode())
    os.close(descriptor)


@app.task(soft_time_limit=0.4)
def soft(catch: bool) -> str:
    try:
        time.sleep(60)
    except SoftTimeLimitExceeded:
        if catch:
            return "cleaned up"
        raise
    return "too late"


@app.task(time_limit=0.8)
def hard() -> str:
    note("hard")
    # A search that takes for ever, inside C, with the interpreter's lock held: nothing in this process can end it.
    import re
    re.match(r"(a+)+$", "a" * 64 + "b")
    return "too late"


@app.task
def limited_by_the_call() -> str:
    note("limited")
    time.sleep(60)
    return "too late"


@app.task(max_retries=5, autoretry_for=(Exception,), default_retry_delay=0)
def poison() -> None:
    note("poison")
    os.kill(os.getpid(), signal.SIGKILL)
    time.sleep(60)


@app.task
def leaves() -> None:
    note("leaves")
    os._exit(0)


@app.task
def fine(number: int) -> int:
    note(f"fine {number}")
    return number
"""

ASYNC = """
import anyio, os, time
from gtask import App, SoftTimeLimitExceeded

app = App("limits")


@app.task(soft_time_limit=0.3, time_limit=5)
async def soft(catch: bool) -> str:
    try:
        await anyio.sleep(60)
    except SoftTimeLimitExceeded:
        if not catch:
            raise
        await anyio.sleep(0.05)
        return "cleaned up"
    return "too late"


@app.task(time_limit=0.4)
async def hard() -> str:
    await anyio.sleep(60)
    return "too late"


@app.task(time_limit=0.4)
async def stuck() -> str:
    time.sleep(60)
    return "too late"


@app.task
async def fine(number: int) -> int:
    return number
"""
