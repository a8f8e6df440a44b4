"""The `headrace` command: thin, every subcommand imported only when it runs.

__main__.py  the subcommands   ·   serve.py  which kind of serving   ·   pull.py   ·   version.py
serve_manifests.py  `serve -f`   ·   manifests.py  the files   ·   serve_models.py  `serve PATH…`
"""
