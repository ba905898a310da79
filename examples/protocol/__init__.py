"""Gearman over a bare socket."""
