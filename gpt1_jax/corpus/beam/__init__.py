"""`prepare` on Apache Beam; nothing else knows the library.

It is heavy and an extra, so only `prepare --engine=beam` imports it.
"""
