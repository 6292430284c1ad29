"""The files of a report (CSV, LaTeX, Markdown, HTML, figures) and the tables of the terminal."""
