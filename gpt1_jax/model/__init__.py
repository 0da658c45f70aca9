"""Networks, and how they generate text. Nothing here reads files."""
