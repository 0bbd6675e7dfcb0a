"""Tools for a release: its check, the audit of packages, and lists of them."""
