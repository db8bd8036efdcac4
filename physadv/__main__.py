"""``python -m physadv``: the command line."""

from physadv_cli.main import main

if __name__ == "__main__":
    main()
