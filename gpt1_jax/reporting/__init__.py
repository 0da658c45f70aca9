"""Reads run folders and reports them: tables, plots and one page."""
