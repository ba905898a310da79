"""Programs that show gtask at work; each folder has its own README."""
