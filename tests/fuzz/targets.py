"""The names of the fuzz targets: each is a module here with `fuzz(data)` and `seeds()`."""

TARGETS = ("client", "server", "admin", "message", "results", "signing", "engine")
