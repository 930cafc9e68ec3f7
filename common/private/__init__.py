"""Every touch of a library's private parts, one module a library; see docs/decisions/0017-private-parts.md.

A module asserts at import that what it touches is there, names its guard tests, and changes nothing for the whole process.
"""
