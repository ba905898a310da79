"""The quick start: two tasks and every way to call them."""
