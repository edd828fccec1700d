"""A package, so that none of this name that a dependency installs stands before it."""
