"""Settling a month of orders with many merchants: `calculate | send`, from CSV files to mailed workbooks."""
