"""``python -m physadv``: the command line."""

from physadv_cli.main import main

main()
