"""Tasks for Python on Gearman."""
