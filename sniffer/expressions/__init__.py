"""Expressions over exchanges: `WHERE`, `KEEP` and the filter of the live view. docs/FILTERS.md has the language.

Nothing of this package is imported before an expression is given.
"""
