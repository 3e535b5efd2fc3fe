"""Where the bytes are: object stores behind one narrow interface, and the grammar of their keys. Knows no Dagster."""
