"""Commands of the offline half; each calls one function."""
