"""From finished runs to the report: what is on disk, tables, plots, page."""
