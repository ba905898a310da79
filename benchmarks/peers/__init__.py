"""One adapter for each program that is measured; each is run by an interpreter of its own, and imports nothing of gtask
unless it is gtask's. They speak JSON lines with `benchmarks.contenders`; see `benchmarks.peers.speech`.
"""
