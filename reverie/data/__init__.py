"""Experience. Read `episode`, then `store`, `sample`, `collect` and `validate`.

Nothing is handed on here, so that the file operations import no torch; take names from their
modules or from `reverie` itself.
"""
