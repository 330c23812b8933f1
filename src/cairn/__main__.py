"""`python -m cairn`: the one way in."""

from cairn.cli.main import main

if __name__ == "__main__":
    main()
