"""What ``benchmarks/compare.py`` is made of: messages, programs, clients, parts, arithmetic, tables."""
