"""Pages of the documentation that are generated while the site is built."""
