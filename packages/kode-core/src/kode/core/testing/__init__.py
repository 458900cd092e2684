"""What proves a KODE application or a part of KODE: strategies, clocks, crashes, conformance suites.

Nothing is imported here: each module says which extra it needs.
"""
