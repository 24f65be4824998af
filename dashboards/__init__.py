"""Grafana dashboards, written down in Python; `python -m dashboards.build` makes the files in `json/` of them."""
