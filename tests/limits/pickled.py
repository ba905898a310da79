"""An app with a task in a module, where pickle finds it."""

from gtask import App

app = App("pickled", results=None)


@app.task
def double(number: int) -> int:
    """Doubles a number."""
    return 2 * number
