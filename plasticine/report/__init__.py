"""The report over a study: figures, tables and one page that holds both."""
